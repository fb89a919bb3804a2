import { describe, expect, test } from "vitest";
import { portableCpu, run } from "../../test/operators/provider.ts";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { conv2d, groupNorm, linear } from "../nn/layers.ts";
import { module, namedParameters } from "../nn/module.ts";
import {
  add,
  argMax,
  cast,
  div,
  exp,
  floor,
  gradients,
  input,
  mean,
  mul,
  relu,
  reshape,
  split,
  stopGradient,
  sub,
  sum,
  type Tensor,
  topological,
  withScope,
} from "./index.ts";

const x = input("x", [3]);
const numbers = float32([3], [0.5, -1, 2]);

/** The values of tensors that depend on x only. */
async function valuesOf(...tensors: Tensor[]): Promise<number[][]> {
  const outputs = Object.fromEntries(tensors.map((tensor, i) => [`out${i}`, tensor]));
  const found = await run(outputs, { x: numbers }, portableCpu);
  return tensors.map((_, i) => Array.from(found[`out${i}`]!.data as Float32Array));
}
const close = (expected: readonly number[]) => expected.map((value) => expect.closeTo(value, 5));

describe("gradients", () => {
  test("of a tensor used several times add up", async () => {
    const y = mul(x, x); // x², used three times below
    const loss = sum(add(add(y, mul(y, x)), mul(y, 4))); // 5x² + x³
    const [dx] = await valuesOf(gradients(loss, [x])[0]!);
    expect(dx).toEqual(close([0.5, -1, 2].map((v) => 10 * v + 3 * v * v)));
  });

  test("are given for intermediate tensors and for leaves in one call", async () => {
    const h = exp(x);
    const loss = sum(mul(h, h));
    const [dx, dh, dLoss] = await valuesOf(...gradients(loss, [x, h, loss]));
    expect(dh).toEqual(close([0.5, -1, 2].map((v) => 2 * Math.exp(v))));
    expect(dx).toEqual(close([0.5, -1, 2].map((v) => 2 * Math.exp(2 * v))));
    expect(dLoss).toEqual([1]);
  });

  test("of a wanted tensor that the loss does not depend on are zeros of its shape", async () => {
    const unused = input("unused", [2, 2]);
    const [dUnused, dAfter] = gradients(sum(x), [unused, exp(x)]);
    expect(dUnused!.shape).toEqual([2, 2]);
    expect(await valuesOf(dUnused!, dAfter!)).toEqual([
      [0, 0, 0, 0],
      [0, 0, 0],
    ]);
  });

  test("stop at stopGradient", async () => {
    const [dx] = await valuesOf(gradients(sum(mul(x, stopGradient(mul(x, x)))), [x])[0]!);
    expect(dx).toEqual(close([0.25, 1, 4]));
  });

  test("of one piece of a split leave zeros for the others", async () => {
    const [, last] = split(x, [2, 1], 0);
    expect(await valuesOf(gradients(sum(mul(last!, 7)), [x])[0]!)).toEqual([[0, 0, 7]]);
  });

  test("of gradients are second derivatives", async () => {
    // f = Σ x⁴ + 1/x: f' = 4x³ − 1/x², and Σ f'² has the derivative 2·f'·f''.
    const square = mul(x, x);
    const [first] = gradients(sum(add(mul(square, square), div(1, x))), [x]);
    const [second] = gradients(sum(mul(first!, first!)), [x]);
    const [found] = await valuesOf(second!);
    const expected = [0.5, -1, 2].map((v) => 2 * (4 * v ** 3 - v ** -2) * (12 * v ** 2 + 2 * v ** -3));
    expected.forEach((value, i) => {
      expect(Math.abs(found![i]! / value - 1)).toBeLessThan(1e-5);
    });
  });

  test("do not visit nodes from which nothing wanted can be reached", () => {
    const other = input("other", [3]);
    const before = relu(reshape(exp(other), [3]));
    const [dx] = gradients(sum(mul(x, before)), [x]);
    const names = topological([dx!]).map((node) => node.operator.name);
    expect(names).not.toContain("greater"); // of ReLU's rule
    expect(names.filter((name) => name === "mul")).toHaveLength(1);
  });

  test("of a chain of 5,000 nodes do not overflow the stack", async () => {
    let y = x;
    for (let i = 0; i < 5000; i++) y = add(y, mul(x, 1 / 5000));
    const [dx] = gradients(sum(y), [x]);
    const [value] = await valuesOf(dx!);
    for (const slope of value!) expect(Math.abs(slope - 2)).toBeLessThan(1e-3);
  }, 60_000);
});

describe("what cannot be differentiated", () => {
  test("is an error that names the operator and its layer", () => {
    const loss = withScope("head.codes", () => sum(floor(mul(x, 3))));
    expect(() => gradients(loss, [x])).toThrow(UserError);
    expect(() => gradients(loss, [x])).toThrow("floor has no gradient (in layer head.codes)");
  });

  test("may be wanted itself: only gradients through it are refused", async () => {
    const whole = floor(x);
    const [dWhole] = gradients(sum(mul(whole, whole)), [whole]);
    expect(await valuesOf(dWhole!)).toEqual([[0, -2, 4]]);
  });

  test("may lie where no gradient passes: behind integers and bools", async () => {
    const place = cast(argMax(x, 0), "float32");
    const [dx] = gradients(sum(mul(x, place)), [x]);
    expect(await valuesOf(dx!)).toEqual([[2, 2, 2]]);
  });

  test("is a loss that is no scalar, and the error gives its shape", () => {
    expect(() => gradients(x, [x])).toThrow(UserError);
    expect(() => gradients(mul(x, 2), [x])).toThrow("scalar loss; given a tensor of shape [3]");
  });
});

test("nodes of a gradient carry the layer of the node they come from", () => {
  const [body, tail] = [linear(3, 2), linear(2, 2)];
  const net = module({ body, tail }, (t: Tensor) => tail(body(t)));
  const named = namedParameters(net);
  const difference = sub(net(reshape(x, [1, 3])), 1);
  const all = gradients(mean(mul(difference, difference)), [...named.values()].map((p) => p.tensor)); // biome-ignore format: short
  expect(all.map((g) => g.shape)).toEqual([...named.values()].map((p) => p.shape));
  const scopes = new Set(topological(all).map((node) => node.scope));
  expect(scopes).toEqual(new Set(["", "body", "tail"]));
});

test("gradients of a network of layers have the shapes of its parameters", () => {
  const [norm, conv] = [groupNorm(2, 4), conv2d(4, 8, { stride: 2, padding: 1 })];
  const net = module({ norm, conv }, (t: Tensor) => conv(norm(t)));
  const parameters = [...namedParameters(net).values()];
  const loss = mean(net(input("image", [2, 4, 6, 6])));
  const shapes = gradients(loss, parameters.map((p) => p.tensor)).map((g) => g.shape); // biome-ignore format: short
  expect(shapes).toEqual(parameters.map((p) => p.shape));
});
