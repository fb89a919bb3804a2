import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { float32, hostTensor } from "../core/host-tensor.ts";
import { bfloat16Bits, bfloat16Value, convertFloat, float16Bits, float16Value } from "./half-precision.ts";

/** Nearest of all finite 16-bit numbers by search, ties to the even bits: the definition, for comparison. */
function nearest(value: number, decode: (bits: number) => number, infinity: number): number {
  const magnitude = Math.abs(value);
  let low = 0;
  let high = infinity;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (decode(middle) <= magnitude) low = middle;
    else high = middle;
  }
  // The step to infinity is as wide as the one before it.
  const above = high === infinity ? 2 * decode(low) - decode(low - 1) : decode(high);
  const down = magnitude - decode(low);
  const up = above - magnitude;
  const bits = down < up ? low : up < down ? high : low % 2 === 0 ? low : high;
  return value < 0 || Object.is(value, -0) ? bits | 0x8000 : bits;
}

describe("16-bit floats", () => {
  it("decode to the numbers IEEE 754 gives", () => {
    expect([0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x3555].map(float16Value)).toEqual([
      1,
      -2,
      65504,
      2 ** -14,
      2 ** -24,
      0.333251953125,
    ]);
    expect(Object.is(float16Value(0x8000), -0)).toBe(true);
    expect(float16Value(0x7c00)).toBe(Number.POSITIVE_INFINITY);
    expect(float16Value(0x7e00)).toBeNaN();
    expect([0x3f80, 0xc000, 0x4049].map(bfloat16Value)).toEqual([1, -2, 3.140625]);
    expect(bfloat16Value(0xff80)).toBe(Number.NEGATIVE_INFINITY);
  });

  it("come back unchanged from all 65,536 values", () => {
    for (let bits = 0; bits < 65536; bits++) {
      const half = float16Value(bits);
      if (Number.isNaN(half)) expect(float16Value(float16Bits(half))).toBeNaN();
      else if (float16Bits(half) !== bits) throw new Error(`float16 ${bits} became ${float16Bits(half)}`);
      const brain = bfloat16Value(bits);
      if (Number.isNaN(brain)) expect(bfloat16Value(bfloat16Bits(brain))).toBeNaN();
      else if (bfloat16Bits(brain) !== bits) throw new Error(`bfloat16 ${bits} became ${bfloat16Bits(brain)}`);
    }
  });

  it("round float32 to the nearest value, ties to even", () => {
    const anyFloat = fc.oneof(
      fc.float({ noNaN: true, noDefaultInfinity: true }),
      fc.float({ min: -70000, max: 70000, noNaN: true }),
      fc.float({ min: Math.fround(-1e-4), max: Math.fround(1e-4), noNaN: true }),
      fc.nat(0x7bfe).map((bits) => (float16Value(bits) + float16Value(bits + 1)) / 2),
      fc.nat(0x7f7e).map((bits) => Math.fround((bfloat16Value(bits) + bfloat16Value(bits + 1)) / 2)),
    );
    fc.assert(
      fc.property(anyFloat, (value) => {
        expect(float16Bits(value)).toBe(nearest(value, float16Value, 0x7c00));
        expect(bfloat16Bits(value)).toBe(nearest(value, bfloat16Value, 0x7f80));
      }),
      { numRuns: 5000 },
    );
  });

  it("keep infinities and NaN", () => {
    expect(float16Bits(Number.POSITIVE_INFINITY)).toBe(0x7c00);
    expect(float16Bits(65520)).toBe(0x7c00);
    expect(float16Bits(65519)).toBe(0x7bff);
    expect(bfloat16Bits(Number.NEGATIVE_INFINITY)).toBe(0xff80);
    expect(bfloat16Value(bfloat16Bits(Number.NaN))).toBeNaN();
  });

  it("convert whole tensors between the floating-point dtypes", () => {
    const tensor = float32([2, 2], [1, -0.5, 3, 65504]);
    const half = convertFloat(tensor, "float16");
    expect(half).toEqual(hostTensor("float16", [2, 2], Uint16Array.of(0x3c00, 0xb800, 0x4200, 0x7bff)));
    expect(convertFloat(half, "float32")).toEqual(tensor);
    expect(convertFloat(half, "bfloat16").data).toEqual(Uint16Array.of(0x3f80, 0xbf00, 0x4040, 0x4780));
    expect(convertFloat(tensor, "float32")).toBe(tensor);
  });
});
