import { expect, test } from "vitest";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import type { Dataset } from "../src/data/index.ts";
import { finished, noiseFrom, samplerFromConfig } from "../src/diffusion/index.ts";
import { input } from "../src/graph/index.ts";
import { flatLayout, packed } from "../src/optim/index.ts";
import { openSession } from "../src/runtime/index.ts";
import {
  evaluationGraph,
  networkFor,
  type RecipeInput,
  readRecipe,
  schedulerConfigOf,
  train,
} from "../src/train/index.ts";
import { checkpointOf, smallRecipe, temporaryFolder } from "./train-small.ts";

const SIZE = 8;
const PIXELS = SIZE * SIZE;

/** Images of one of two grays: three in four are dark (−0.6), the others light (+0.6). */
const twoColours: Dataset = {
  name: "two colours",
  images: Uint8Array.from({ length: 256 * PIXELS }, (_, i) => (Math.floor(i / PIXELS) % 4 === 0 ? 204 : 51)),
  count: 256,
  channels: 1,
  height: SIZE,
  width: SIZE,
  flip: false,
  warnings: [],
};

/** Draws images with a run's averaged weights. */
async function drawn(recipeInput: RecipeInput, step: number, count: number): Promise<Float32Array[]> {
  const recipe = readRecipe(recipeInput);
  const { network, sample } = networkFor(recipe, twoColours);
  const { tensors } = await checkpointOf(recipe.run, step);
  const average = [...tensors].flatMap(([name, tensor]) =>
    name.startsWith("average/") ? [[name.slice("average/".length), tensor] as const] : [],
  );
  const layout = flatLayout(average);
  const [x, t] = [input("x", [count, ...sample]), input("t", [count])];
  const model = evaluationGraph(network, network(x, t), layout, undefined);
  const session = await openSession(model.bytes, { name: "drawing", resident: { parameters: null } });
  try {
    await session.write("parameters", float32([layout.size], packed(new Map(average), layout)));
    const { variance_type: _, ...config } = schedulerConfigOf(recipe);
    const plan = samplerFromConfig({ _class_name: "DDIMScheduler", ...config }).plan({ steps: 50 });
    const noise = noiseFrom(Array.from({ length: count }, (_, i) => seeded(1000 + i)))(x.shape);
    const denoise = async (samples: HostTensor<"float32">, timestep: number) => {
      const feeds = { x: samples, t: float32([count], new Float32Array(count).fill(timestep)) };
      return (await session.run(feeds)).output as HostTensor<"float32">;
    };
    const { data } = await finished(plan.sample(denoise, noise), noise);
    return Array.from({ length: count }, (_, i) => data.slice(i * PIXELS, (i + 1) * PIXELS));
  } finally {
    await session.close();
  }
}

const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length;

test.each([
  ["noise", {}],
  ["v", { zeroTerminalSnr: true, weighting: "min-snr" }],
  ["x0", {}],
] as const)("a network that predicts %s learns the two colours and how often each occurs", async (predict, changes) => {
  const run = await temporaryFolder();
  const recipe = smallRecipe(run, {
    channels: [16, 32],
    batch: 32,
    steps: 1500,
    lr: 2e-3,
    warmup: 50,
    ema: 0.99,
    checkpointEvery: 500,
    threads: 2,
    predict,
    ...changes,
  });
  const { metrics } = await train(recipe, { dataset: twoColours });
  const losses = metrics.map(({ loss }) => loss);
  console.log(`${predict}: loss ${mean(losses.slice(0, 3)).toFixed(3)} → ${mean(losses.slice(-30)).toFixed(4)}`);
  expect(mean(losses.slice(-30))).toBeLessThan(0.2 * mean(losses.slice(0, 3)));

  const images = await drawn(recipe, 1500, 256);
  const [dark, light] = [images.filter((image) => mean(image) < 0), images.filter((image) => mean(image) >= 0)];
  const spread = (group: Float32Array[], colour: number) =>
    Math.sqrt(mean(group.map((image) => mean(image.map((value) => (value - colour) ** 2)))));
  console.log(
    `${predict}: ${dark.length}/256 dark, means ${mean(dark.map(mean)).toFixed(3)} and ${mean(light.map(mean)).toFixed(3)}, ` +
      `deviations ${spread(dark, -0.6).toFixed(3)} and ${spread(light, 0.6).toFixed(3)}`,
  );
  // Four standard deviations of a count of 256 with probability 3/4 are 28; a network that mixes the two fails.
  expect(Math.abs(dark.length - 192)).toBeLessThan(28);
  expect(mean(dark.map(mean))).toBeCloseTo(-0.6, 1);
  expect(mean(light.map(mean))).toBeCloseTo(0.6, 1);
  // Every pixel has the colour, not only the average.
  expect(spread(dark, -0.6)).toBeLessThan(0.1);
  expect(spread(light, 0.6)).toBeLessThan(0.1);
});
