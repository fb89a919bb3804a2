// A process for train-killed.test.ts to kill: trains what its arguments say and tells of every step.
import { type RecipeInput, train } from "../src/train/index.ts";
import { smallDataset } from "./train-small-data.ts";

const recipe = JSON.parse(process.argv[2]!) as RecipeInput;
await train(recipe, {
  dataset: smallDataset({ classes: 3, flip: true }),
  onEvent: (event) => {
    if (event.kind === "step") process.stdout.write(`step ${event.step}\n`);
  },
});
