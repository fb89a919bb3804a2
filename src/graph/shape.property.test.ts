import fc from "fast-check";
import { expect, test } from "vitest";
import { portableCpu, run } from "../../test/operators/provider.ts";
import { float32, type HostTensor, type Shape, sizeOf } from "../core/host-tensor.ts";
import {
  add,
  concat,
  constant,
  expand,
  gradients,
  input,
  mul,
  pad,
  reshape,
  slice,
  sum,
  sumTo,
  type Tensor,
  transpose,
} from "./index.ts";

/*
 * Operators that only move, repeat or drop elements are linear, y = A·x, and their gradient must be the transposed map:
 * Σ y·w = Σ x·(Aᵀw) for every x and w. With small whole numbers both sides are exact. Many cases share one model.
 */

/** Whole numbers −3 … 3 that depend on the place and `seed`. */
function wholeNumbers(shape: Shape, seed: number): HostTensor {
  return float32(
    shape,
    Array.from({ length: sizeOf(shape) }, (_, i) => ((i * 5 + seed * 3 + ((i * seed) % 11)) % 7) - 3),
  );
}

/** A step of a chain of linear operators, its numbers taken as they fit the shape it meets. */
type Step = readonly [kind: number, a: number, b: number, c: number];
const step: fc.Arbitrary<Step> = fc.tuple(fc.nat(5), fc.nat(20), fc.nat(20), fc.nat(3));

function take(x: Tensor, [kind, a, b, c]: Step): Tensor {
  const rank = x.shape.length;
  const axis = a % rank;
  const size = x.shape[axis]!;
  switch (kind) {
    case 0: {
      // All axes into one but `axis`, whatever their order.
      return reshape(x, b % 2 ? [size, -1] : [sizeOf(x.shape) / size, size]);
    }
    case 1: {
      const order = x.shape.map((_, i) => (i + b) % rank);
      return transpose(x, c % 2 ? order : [...order].reverse());
    }
    case 2: {
      const start = b % size;
      return slice(x, axis - (c % 2 ? rank : 0), start, start + 1 + (a % (size - start)), 1 + c);
    }
    case 3:
      // At most all but one element is cut.
      return pad(x, x.shape.map((n, i) => (i === axis ? [b % 3, c - Math.min(3, n - 1 + (b % 3))] : [0, 0]))); // biome-ignore format: short
    case 4:
      return expand(reshape(x, [...x.shape.slice(0, axis), 1, ...x.shape.slice(axis)]), [
        ...x.shape.slice(0, axis),
        1 + c,
        ...x.shape.slice(axis),
      ]);
    default:
      return concat([x, x, slice(x, axis, 0, 1)], axis);
  }
}

const chain = fc.record({
  shape: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 }),
  steps: fc.array(step, { minLength: 1, maxLength: 5 }),
});

const dot = (a: HostTensor, b: HostTensor) =>
  Array.from(a.data as Float32Array).reduce((total, value, i) => total + value * (b.data as Float32Array)[i]!, 0);

test("gradients of chains of reshape, transpose, slice, pad, expand and concat are the transposed maps", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(chain, { minLength: 1, maxLength: 25, size: "max" }), async (chains) => {
      const outputs: Record<string, Tensor> = {};
      const feeds: Record<string, HostTensor> = {};
      const weights = chains.map(({ shape, steps }, i) => {
        const x = input(`x${i}`, shape);
        const y = steps.reduce(take, x);
        const w = wholeNumbers(y.shape, i + 2);
        feeds[`x${i}`] = wholeNumbers(shape, i);
        outputs[`y${i}`] = y;
        outputs[`d${i}`] = gradients(sum(mul(y, constant(w))), [x])[0]!;
        return w;
      });
      // The leaf is an output too, so that it is fed even when a chain leaves nothing of it.
      chains.forEach((_, i) => {
        outputs[`same${i}`] = input(`x${i}`, feeds[`x${i}`]!.shape);
      });
      const found = await run(outputs, feeds, portableCpu);
      chains.forEach((_, i) => {
        expect(found[`y${i}`]!.shape).toEqual(outputs[`y${i}`]!.shape);
        expect(found[`d${i}`]!.shape).toEqual(feeds[`x${i}`]!.shape);
        expect(dot(found[`d${i}`]!, feeds[`x${i}`]!)).toBe(dot(found[`y${i}`]!, weights[i]!));
      });
    }),
    { numRuns: 12, seed: 1 },
  );
}, 60_000);

/** A shape and one that it broadcasts with: some axes 1, some left out in front. */
const broadcastPair = fc
  .array(fc.record({ size: fc.integer({ min: 1, max: 3 }), one: fc.boolean(), other: fc.boolean() }), { maxLength: 4 })
  .chain((axes) =>
    fc.record({
      a: fc.constant(axes.map(({ size, one }) => (one ? 1 : size))),
      b: fc.nat(axes.length).map((from) => axes.slice(from).map(({ size, other }) => (other ? 1 : size))),
    }),
  );

test("broadcasting follows NumPy's rule, and sumTo adds up what it had repeated", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(broadcastPair, { minLength: 1, maxLength: 25, size: "max" }), async (pairs) => {
      const outputs: Record<string, Tensor> = {};
      const feeds: Record<string, HostTensor> = {};
      pairs.forEach(({ a, b }, i) => {
        const [x, y] = [input(`a${i}`, a), input(`b${i}`, b)];
        feeds[`a${i}`] = wholeNumbers(a, i);
        feeds[`b${i}`] = wholeNumbers(b, i + 1);
        const z = add(x, y);
        outputs[`sum${i}`] = z;
        outputs[`back${i}`] = sumTo(z, b);
        [outputs[`da${i}`], outputs[`db${i}`]] = gradients(sum(mul(z, z)), [x, y]) as [Tensor, Tensor];
      });
      const found = await run(outputs, feeds, portableCpu);
      pairs.forEach(({ a, b }, i) => {
        const rank = Math.max(a.length, b.length);
        const size = (shape: Shape, axis: number) => shape[axis - rank + shape.length] ?? 1;
        const expected = Array.from({ length: rank }, (_, axis) => Math.max(size(a, axis), size(b, axis)));
        expect(found[`sum${i}`]!.shape).toEqual(expected);
        // Each element of the sum, by its index, and where it came from.
        const total = sizeOf(expected);
        const dA = new Float32Array(sizeOf(a));
        const dB = new Float32Array(sizeOf(b));
        const back = new Float32Array(sizeOf(b));
        for (let place = 0; place < total; place++) {
          const [inA, inB] = [a, b].map((shape) => {
            let [rest, offset, stride] = [place, 0, 1];
            for (let axis = rank - 1; axis >= 0; axis--) {
              const index = rest % expected[axis]!;
              rest = (rest - index) / expected[axis]!;
              if (size(shape, axis) !== 1) offset += index * stride;
              stride *= size(shape, axis);
            }
            return offset;
          }) as [number, number];
          const value = (feeds[`a${i}`]!.data as Float32Array)[inA]! + (feeds[`b${i}`]!.data as Float32Array)[inB]!;
          expect((found[`sum${i}`]!.data as Float32Array)[place]).toBe(value);
          dA[inA]! += 2 * value;
          dB[inB]! += 2 * value;
          back[inB]! += value;
        }
        expect(found[`back${i}`]!.data).toEqual(back);
        expect(found[`da${i}`]!.data).toEqual(dA);
        expect(found[`db${i}`]!.data).toEqual(dB);
      });
    }),
    { numRuns: 8, seed: 2 },
  );
}, 60_000);
