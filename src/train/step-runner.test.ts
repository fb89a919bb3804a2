import { describe, expect, test } from "vitest";
import type { HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { input, mean, mul, sub } from "../graph/index.ts";
import { initialize, unet2d } from "../models/index.ts";
import { adamwScalars, packed } from "../optim/index.ts";
import { STATE, type StateName } from "./step.ts";
import { openStepRunner, replicasFor, type StepRunner } from "./step-runner.ts";

const CONFIG = {
  sample_size: 8,
  in_channels: 1,
  out_channels: 1,
  block_out_channels: [8, 16],
  layers_per_block: 1,
  down_block_types: ["DownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "UpBlock2D"],
  norm_num_groups: 4,
};
const BATCH = 8;
const STEPS = 5;

/** A small network, its state as it starts, in so many replicas. */
async function opened(threads: number): Promise<StepRunner> {
  const network = unet2d(CONFIG);
  const runner = await openStepRunner({
    network,
    lossOf: (images) => {
      const x = input("x", [images, 1, 8, 8]);
      const error = sub(network(x, input("t", [images])), input("y", [images, 1, 8, 8]));
      return mean(mul(error, error));
    },
    batch: BATCH,
    clip: 1,
    threads,
  });
  const start = packed(initialize(network, seeded(1)), runner.layout);
  for (const name of STATE) {
    await runner.write(name, name === "mean" || name === "square" ? new Float32Array(start.length) : start);
  }
  return runner;
}

/** Takes steps, each with a batch of its own, and returns the losses, the norms and the state. */
async function trained(threads: number, { readEach = false } = {}) {
  const runner = await opened(threads);
  const random = seeded(2);
  const losses: number[] = [];
  const norms: number[] = [];
  for (let n = 1; n <= STEPS; n++) {
    const batch = {
      x: random.normal([BATCH, 1, 8, 8]),
      y: random.normal([BATCH, 1, 8, 8]),
      t: random.uniform([BATCH], { high: 1000 }),
    };
    const feeds = Array.from({ length: runner.parts }, (_, i) =>
      Object.fromEntries(Object.entries(batch).map(([name, tensor]) => [name, part(tensor, i, runner.parts)])),
    );
    const { loss, gradientNorm } = await runner.step(feeds, { ...adamwScalars(n, 1e-2), averaging: 0.1 });
    losses.push(loss);
    norms.push(gradientNorm);
    if (readEach) await runner.read("parameters");
  }
  const state = new Map<StateName, Float32Array>();
  for (const name of STATE) state.set(name, await runner.read(name));
  await runner.close();
  return { losses, norms, state, parts: runner.parts };
}

function part(tensor: HostTensor<"float32">, i: number, parts: number): HostTensor<"float32"> {
  const length = tensor.data.length / parts;
  const [count, ...rest] = tensor.shape;
  return { ...tensor, shape: [count! / parts, ...rest], data: tensor.data.slice(i * length, (i + 1) * length) };
}

describe("replicas of a training step", () => {
  test("take the steps that one session takes, up to rounding", async () => {
    const one = await trained(1);
    const two = await trained(2);
    expect([one.parts, two.parts]).toEqual([1, 2]);
    for (let i = 0; i < STEPS; i++) {
      expect(two.losses[i]).toBeCloseTo(one.losses[i]!, 3);
      expect(two.norms[i]).toBeCloseTo(one.norms[i]!, 2);
    }
    // Adam divides by the gradient's own size: where that is rounding noise a step may differ by the learning rate.
    const [a, b] = [one.state.get("average")!, two.state.get("average")!];
    const apart = a.filter((value, i) => Math.abs(value - b[i]!) > 1e-3);
    expect(apart.length).toBeLessThan(a.length / 50);
    expect(Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))).toBeLessThan(0.1);
  });

  test("stand still while their state is read: steps after it are the same to the bit", async () => {
    const plain = await trained(2);
    const read = await trained(2, { readEach: true });
    expect(read.losses).toEqual(plain.losses);
    for (const name of STATE) expect(read.state.get(name)).toEqual(plain.state.get(name));
  });
});

test("there is a replica for each thread where the batch can be cut so, on the CPU", () => {
  expect(replicasFor({ batch: 64, threads: 2 })).toBe(2);
  expect(replicasFor({ batch: 64, threads: 6 })).toBe(4);
  expect(replicasFor({ batch: 8, threads: 4 })).toBe(2);
  expect(replicasFor({ batch: 5, threads: 4 })).toBe(1);
  expect(replicasFor({ batch: 64, threads: 1 })).toBe(1);
  expect(replicasFor({ batch: 64, threads: 2, accumulate: 2 })).toBe(1);
  expect(replicasFor({ batch: 64, threads: 2, device: "webgpu" })).toBe(1);
});
