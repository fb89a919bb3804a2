import { float32 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { add, gradients, input, matmul, mean, mul, parameterLeaf, sub, tanh, toOnnx } from "../src/graph/index.ts";
import { openSession } from "../src/runtime/index.ts";

// 1. Describe the computation. Nothing is computed yet: these are nodes with shapes.
const x = input("x", [4, 2]); // four points
const target = input("target", [4, 1]);
const parameters = {
  w1: parameterLeaf([2, 8]),
  b1: parameterLeaf([8]),
  w2: parameterLeaf([8, 1]),
  b2: parameterLeaf([1]),
};
const hidden = tanh(add(matmul(x, parameters.w1), parameters.b1)); // [4, 8]
const predicted = add(matmul(hidden, parameters.w2), parameters.b2); // [4, 1]
const error = sub(predicted, target);
const loss = mean(mul(error, error)); // []

// 2. Differentiate it: the gradients are nodes of the same graph, and so is the step of gradient descent.
const names = Object.keys(parameters) as (keyof typeof parameters)[];
const slopes = gradients(
  loss,
  names.map((name) => parameters[name]),
);
const next = Object.fromEntries(
  names.map((name, i) => [`next.${name}`, sub(parameters[name], mul(slopes[i]!, 0.1))] as const),
);

// 3. Write it as ONNX. Parameters are bound: here each is an input, fed with what the step before gave out.
const model = toOnnx(
  { loss, predicted, ...next },
  {
    bind: (leaf) => {
      const name = names.find((name) => parameters[name] === leaf);
      return name && { kind: "input", name };
    },
  },
);

// 4. Run it. The parameters stay in the session from one run to the next.
const session = await openSession(model.bytes, {
  resident: Object.fromEntries(names.map((name) => [name, `next.${name}`])),
});
const random = seeded(0);
for (const name of names) await session.write(name, random.normal(parameters[name].shape));
const feeds = { x: float32([4, 2], [0, 0, 0, 1, 1, 0, 1, 1]), target: float32([4, 1], [0, 1, 1, 0]) };
for (let step = 0; step <= 100; step++) {
  const result = await session.run(feeds);
  if (step % 25 === 0) console.log(`step ${step}: loss ${(result.loss!.data[0] as number).toFixed(4)}`);
  if (step === 100)
    console.log("predicted", ...Array.from(result.predicted!.data as Float32Array, (y) => y.toFixed(1)));
}
await session.close();
