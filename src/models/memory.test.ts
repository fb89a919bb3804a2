import { expect, test } from "vitest";
import { input } from "../graph/index.ts";
import { forInference } from "../nn/index.ts";
import { estimateMemory, isLarge, unet2dCondition } from "./index.ts";

const MIB = 2 ** 20;

/** The U-Net of Stable Diffusion 1.5, called as for guidance. */
const unet = unet2dCondition({ cross_attention_dim: 768 });
const called = (rounded: boolean) =>
  forInference(() => unet(input("x", [2, 4, 64, 64]), input("t", [2]), input("text", [2, 77, 768])), { rounded });

test("the estimates for Stable Diffusion 1.5's U-Net are within a tenth of what bench/RESULTS.md measured", () => {
  const [plain, rounded] = [called(false), called(true)];
  for (const [measured, options] of [
    [3913, {}],
    [3916, { dtype: "float16" }],
    [3388, { quantize: 8 }],
    [3321, { quantize: 4 }],
  ] as const) {
    const { total } = estimateMemory(unet, ["quantize" in options ? rounded : plain], options);
    expect(Math.abs(total / (measured * MIB) - 1), `${total}`).toBeLessThan(0.1);
  }
});

test("of a network that is run in part, the weights of that part count; small ones are there twice while converted", () => {
  const small = unet2dCondition({
    block_out_channels: [32, 32, 32, 32],
    cross_attention_dim: 8,
    attention_head_dim: 4,
  });
  expect([isLarge(unet), isLarge(small)]).toEqual([true, false]);
  const y = forInference(() => small(input("x", [1, 4, 8, 8]), input("t", [1]), input("text", [1, 3, 8])));
  const whole = estimateMemory(small, [y]);
  const half = estimateMemory(small, [y], { dtype: "float16" });
  expect(half.stored).toBe(whole.stored / 2);
  expect(half.weights).toBe(whole.weights + half.stored);
  expect(half.activations).toBe(whole.activations);
  expect(estimateMemory(small, [input("x", [1])]).stored).toBe(0);
});
