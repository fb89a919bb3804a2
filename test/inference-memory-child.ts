/** Runs a U-Net from a folder twice and prints its estimate and this process's peak memory, in bytes, as JSON. */
import { basename, dirname } from "node:path";
import { float32, sizeOf } from "../src/core/host-tensor.ts";
import { input, toOnnx } from "../src/graph/index.ts";
import { readModelFolder } from "../src/io/index.ts";
import { bindWeights, estimateMemory, unet2dCondition } from "../src/models/index.ts";
import { withScoreLimit } from "../src/nn/index.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";

const [folder, dtype, size, limit] = process.argv.slice(2) as [string, "float32" | "float16", string, string];
const { config, weights } = await readModelFolder(folder);
const { _diffusers_version: _, ...fields } = config;
const network = unet2dCondition(fields);
const shapes = {
  x: [2, 4, Number(size), Number(size)],
  t: [2],
  text: [2, 77, network.config.cross_attention_dim as number],
};
const given = (name: keyof typeof shapes) => input(name, shapes[name]);
const y = withScoreLimit(Number(limit), () => network(given("x"), given("t"), given("text")));
const { total } = estimateMemory(network, [y], { dtype });
const stored = new Map(
  [...weights.tensors].map(([name, { path, ...entry }]) => [name, { ...entry, file: basename(path) }]),
);
const model = toOnnx({ y }, { bind: bindWeights(network, stored), target: inferenceTarget() });
const session = await openSession(model.bytes, { threads: 2, externalData: dirname(weights.files[0]!) });
const feeds = Object.fromEntries(
  Object.entries(shapes).map(([name, shape]) => [name, float32(shape, new Float32Array(sizeOf(shape)).fill(0.1))]),
);
for (let i = 0; i < 2; i++) await session.run(feeds);
await session.close();
console.log(JSON.stringify({ estimate: total, peak: process.resourceUsage().maxRSS * 1024 }));
