import { expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { ddim, denoiser, finished, guided, levelOfAlphaBar, scaledLinearSchedule } from "../diffusion/index.ts";
import { add, input, mean, mul, reshape, toOnnx } from "../graph/index.ts";
import { openSession } from "../runtime/index.ts";
import { teacherStep, teacherTimesteps } from "./consistency-distillation.ts";

test("the teacher's timesteps are those that diffusers' LCMScheduler chooses from", () => {
  const timesteps = teacherTimesteps(1000, 50);
  expect([timesteps[0], timesteps[1], timesteps.at(-1), timesteps.length]).toEqual([19, 39, 999, 50]);
});

test.each(["noise", "x0", "v"] as const)(
  "a step of a teacher that predicts %s is a guided DDIM step",
  async (predict) => {
    const schedule = scaledLinearSchedule();
    const shape = [2, 1, 2, 3];
    const random = seeded(4);
    const z = random.normal(shape);
    const words = random.normal([2, 3, 4]);
    const none = float32([2, 3, 4], new Float32Array(24).fill(0.25));
    const [from, to, omega] = [
      [499, 19],
      [479, 0],
      [3, 0.5],
    ] as const;

    // A network that answers 0.7·z + 0.001·t + the mean of the words.
    const vector = (name: string) => input(name, [2], "int64");
    const graph = toOnnx({
      step: teacherStep(
        (x, t, context) => {
          const each = (y: typeof x) => reshape(y, [4, 1, 1, 1]);
          return add(add(mul(x, 0.7), mul(each(t), 1e-3)), each(mean(context, [1, 2])));
        },
        { schedule, predict },
        {
          z: input("z", shape),
          words: input("words", [2, 3, 4]),
          none: input("none", [2, 3, 4]),
          ...{ from: vector("from"), to: vector("to"), omega: input("omega", [2]) },
        },
      ),
    });
    const session = await openSession(graph.bytes, { threads: 1 });
    const feeds = { z, words, none, from: int64([2], from), to: int64([2], to), omega: float32([2], omega) };
    const step = (await session.run(feeds)).step!.data as Float32Array;
    await session.close();

    for (const i of [0, 1]) {
      const x = float32([1, 1, 2, 3], z.data.slice(i * 6, (i + 1) * 6));
      const network = (states: HostTensor<"float32">) => {
        const own = states.data.subarray(i * 12, (i + 1) * 12);
        const average = own.reduce((sum, value) => sum + value, 0) / 12;
        return async (sample: HostTensor<"float32">, timestep: number) =>
          float32(
            sample.shape,
            sample.data.map((value) => 0.7 * value + 1e-3 * timestep + average),
          );
      };
      const level = (t: number) => levelOfAlphaBar(schedule.alphasCumprod[t]!, t);
      const both = guided(network(words), network(none), { scale: omega[i]! + 1 });
      const run = ddim(denoiser(both, { prediction: predict }), x, [{ from: level(from[i]!), to: level(to[i]!) }]);
      const expected = (await finished(run, x)).data;
      const own = step.subarray(i * 6, (i + 1) * 6);
      expect(Math.max(...own.map((value, k) => Math.abs(value - expected[k]!)))).toBeLessThan(2e-4);
    }
  },
);
