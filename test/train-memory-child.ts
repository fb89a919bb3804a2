// A process for train-plan.slow.test.ts to measure: trains what its arguments say and prints its peak memory in bytes.
import { type RecipeInput, train } from "../src/train/index.ts";
import { smallDataset } from "./train-small-data.ts";

const [recipe, data] = process.argv.slice(2).map((text) => JSON.parse(text)) as [
  RecipeInput,
  Parameters<typeof smallDataset>[0],
];
const { metrics } = await train(recipe, { dataset: smallDataset(data) });
const seconds = metrics.slice(1).map((line) => line.seconds);
console.log(JSON.stringify({ peak: process.resourceUsage().maxRSS * 1024, seconds: Math.min(...seconds) }));
