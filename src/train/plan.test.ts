import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { conv2d, gradients, graphCost, input, matmul, mean, mul, parameterLeaf, relu } from "../graph/index.ts";
import { planTraining } from "./plan.ts";
import { train } from "./train.ts";

let folder: string;
let data: string;
const cache = process.env.ALLEGORY_CACHE;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-plan-"));
  data = join(folder, "pictures");
  process.env.ALLEGORY_CACHE = join(folder, "cache");
  await mkdir(data);
  for (let i = 0; i < 6; i++) {
    const background = { r: 40 * i, g: 0, b: 255 - 40 * i };
    await sharp({ create: { width: 20, height: 16, channels: 3, background } })
      .png()
      .toFile(join(data, `${i}.png`));
  }
});

afterEach(async () => {
  if (cache === undefined) delete process.env.ALLEGORY_CACHE;
  else process.env.ALLEGORY_CACHE = cache;
  await rm(folder, { recursive: true, force: true });
});

const recipe = (changes: object = {}) => ({
  data,
  run: join(folder, "run"),
  size: 8,
  channels: [8, 16],
  layers: 1,
  batch: 4,
  steps: 30,
  sampleEvery: 0,
  threads: 1,
  ...changes,
});

describe("the plan of a training run", () => {
  test("says what it would take, and writes nothing", async () => {
    const plan = await planTraining(recipe());
    expect(plan).toMatchObject({
      images: { count: 6, channels: 3, height: 8, width: 8, classes: 0 },
      sample: [3, 8, 8],
      steps: 30,
      done: 0,
      epochs: 20,
    });
    const { peak, fixed, images, state, activations } = plan.memory;
    expect(peak).toBe(fixed + images + state + activations);
    expect(images).toBe(6 * 3 * 8 * 8);
    // One session: its state, and copies of it.
    expect(state).toBe((4 + 5) * 4 * plan.parameters);
    expect(activations).toBeGreaterThan(10_000);
    expect(plan.time.perStep).toBeGreaterThan(0);
    expect(plan.time.total).toBeCloseTo(30 * plan.time.perStep, 10);
    expect(plan.time.imagesPerSecond).toBeCloseTo(4 / plan.time.perStep, 10);
    expect(await readdir(folder)).toEqual(["pictures"]);
  });

  test("counts the parameters that are then trained", async () => {
    const { parameters } = await planTraining(recipe({ steps: 1 }));
    let trained = 0;
    await train(recipe({ steps: 1 }), {
      onEvent: (event) => {
        if (event.kind === "started") trained = event.parameters;
      },
    });
    expect(parameters).toBe(trained);
  });

  test("of a run that has begun is of the steps that are left", async () => {
    await train(recipe({ steps: 10 }));
    const before = await readdir(join(folder, "run"), { recursive: true });
    const plan = await planTraining(recipe());
    expect(plan).toMatchObject({ done: 10, steps: 20, epochs: 20 });
    expect(await readdir(join(folder, "run"), { recursive: true })).toEqual(before);
    await expect(planTraining(recipe({ lr: 1 }))).rejects.toThrow(/lr: 0.0002 before, 1 now/);
    await rm(join(data, "3.png"));
    await expect(planTraining(recipe())).rejects.toThrow("started on other data");
  });

  test("ends when the minutes are over", async () => {
    const plan = await planTraining(recipe({ steps: 10_000_000, minutes: 1 }));
    expect(plan.steps).toBeLessThan(10_000_000);
    expect(plan.time.total).toBeGreaterThanOrEqual(60);
    expect(plan.time.total).toBeLessThan(60 + plan.time.perStep);
  });

  test("needs less memory for a batch in parts, and warns where no machine has enough", async () => {
    const whole = await planTraining(recipe({ batch: 32 }));
    const parts = await planTraining(recipe({ batch: 32, accumulate: 8 }));
    expect(parts.memory.activations).toBeLessThan(whole.memory.activations / 3);
    expect(whole.warnings.join()).not.toContain("GB of memory");
    // The time is measured with a few images only.
    const batch = 32 * Math.ceil((1.5 * totalmem()) / whole.memory.activations);
    const impossible = await planTraining(recipe({ batch }));
    expect(impossible.time.measured.images).toBeLessThan(10_000);
    expect(impossible.warnings.join()).toMatch(/needs about \d+\.\d GB of memory and this machine has .*accumulate 2/);
  });

  test("refuses what training would refuse", async () => {
    await expect(planTraining(recipe({ size: 9 }))).rejects.toThrow("must be multiples of 2");
    await expect(planTraining(recipe({ classes: true }))).rejects.toThrow("must lie in a sub-folder");
    expect(existsSync(join(folder, "run"))).toBe(false);
  });
});

describe("the cost of a graph", () => {
  test("is two operations for each product's multiplication and addition", () => {
    const x = input("x", [5, 3, 8, 8]);
    const w = parameterLeaf([7, 3, 3, 3]);
    expect(graphCost([conv2d(x, w, undefined, { padding: 1 })]).flops).toBe(2 * 5 * 7 * 8 * 8 * 3 * 9);
    const [a, b] = [input("a", [4, 5, 6]), input("b", [4, 6, 7])];
    expect(graphCost([matmul(a, b)]).flops).toBe(2 * 4 * 5 * 6 * 7);
    // Backward: as much again for the weights, and for the input, which is not asked for here.
    const loss = mean(conv2d(x, w, undefined, { padding: 1 }));
    expect(graphCost([loss, ...gradients(loss, [w])]).flops).toBe(2 * 2 * 5 * 7 * 8 * 8 * 3 * 9);
  });

  test("counts results as long as they are needed", () => {
    const x = input("x", [1000]);
    const w = parameterLeaf([1000]);
    let y = mul(x, w);
    // A chain holds one result at a time: each writes over the one before.
    for (let i = 0; i < 10; i++) y = relu(y);
    expect(graphCost([y]).peakBytes).toBe(4000);
    // A backward pass needs every one of them.
    const squares = (n: number) => {
      let z = mul(x, w);
      for (let i = 0; i < n; i++) z = mul(z, z);
      const loss = mean(z);
      return graphCost([loss, ...gradients(loss, [w])]).peakBytes;
    };
    const each = (squares(20) - squares(10)) / 10;
    expect(each).toBe(4000);
  });
});
