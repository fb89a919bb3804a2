/**
 * Runs a U-Net from a folder three times, as pipelines do, and prints this process's peak memory and its estimate, in bytes,
 * as JSON. What the process itself takes is measured, for it also translates TypeScript here.
 */
import { basename, dirname } from "node:path";
import { float32, sizeOf } from "../src/core/host-tensor.ts";
import { add, input, toOnnx } from "../src/graph/index.ts";
import { readModelFolder } from "../src/io/index.ts";
import {
  bindRounded,
  bindWeights,
  estimateMemory,
  isLarge,
  linearWeights,
  unet2dCondition,
} from "../src/models/index.ts";
import { forInference } from "../src/nn/index.ts";
import { openNetwork } from "../src/pipelines/open-network.ts";
import { openSession } from "../src/runtime/index.ts";

const [folder, dtype, size, quantize] = process.argv.slice(2) as [
  string,
  "float32" | "float16",
  string,
  string | undefined,
];
// What every process has that ran a session.
const tiny = await openSession(toOnnx({ y: add(input("x", [1]), 1) }).bytes, { threads: 2 });
await tiny.run({ x: float32([1], [0]) });
await tiny.close();
const before = process.memoryUsage.rss();
const { config, weights } = await readModelFolder(folder);
const { _diffusers_version: _, ...fields } = config;
const network = unet2dCondition(fields);
const shapes = {
  x: [2, 4, Number(size), Number(size)],
  t: [2],
  text: [2, 77, network.config.cross_attention_dim as number],
};
const given = (name: keyof typeof shapes) => input(name, shapes[name]);
const bits = quantize === undefined ? undefined : (Number(quantize) as 4 | 8);
const y = forInference(() => network(given("x"), given("t"), given("text")), { rounded: bits !== undefined });
const estimate = estimateMemory(network, [y], { dtype, quantize: bits });
const stored = new Map(
  [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
);
const plain = bindWeights(network, stored);
const session = await openNetwork(
  { y },
  {
    bind: bits ? bindRounded(network, plain, linearWeights(network, [y]), { bits }) : plain,
    large: isLarge(network),
    steady: ["text"],
    threads: 2,
    externalData: dirname(weights.files[0]!),
  },
);
const feeds = Object.fromEntries(
  Object.entries(shapes).map(([name, shape]) => [name, float32(shape, new Float32Array(sizeOf(shape)).fill(0.1))]),
);
for (let i = 0; i < 3; i++) await session.run(feeds);
await session.close();
const { weights: weightBytes, activations } = estimate;
console.log(
  JSON.stringify({ estimate: before + weightBytes + activations, peak: process.resourceUsage().maxRSS * 1024 }),
);
