import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { float32, sizeOf } from "../src/core/host-tensor.ts";
import { type LazyTensor, writeModelFolder } from "../src/io/index.ts";
import { unet2dCondition } from "../src/models/index.ts";
import { namedParameters } from "../src/nn/module.ts";

// A U-Net of 137 million parameters, measured in processes of its own.

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-memory-"));
  const network = unet2dCondition({
    block_out_channels: [128, 256, 512, 512],
    cross_attention_dim: 256,
    attention_head_dim: 8,
  });
  const tensors = new Map<string, LazyTensor>();
  for (const [name, { shape }] of namedParameters(network)) {
    const scale = sizeOf(shape.slice(1)) ** -0.5;
    const read = async () =>
      float32(
        shape,
        new Float32Array(sizeOf(shape)).map((_, i) => scale * Math.sin(1.7 * i)),
      );
    tensors.set(name, { dtype: "float32", shape, read });
  }
  const { _class_name: _, ...config } = network.config;
  for (const dtype of ["float32", "float16"] as const) {
    await writeModelFolder(join(root, dtype), { className: "UNet2DConditionModel", config, tensors }, { dtype });
  }
});
afterAll(() => rm(root, { recursive: true, force: true }));

test.each([
  ["float32", 16, 1e12],
  ["float32", 48, 1e12],
  ["float32", 48, 40e6],
  ["float16", 32, 1e12],
] as const)(
  "the estimate for %s weights at %i pixels, scores limited to %d bytes, is within a third",
  async (dtype, size, limit) => {
    const child = fileURLToPath(new URL("./inference-memory-child.ts", import.meta.url));
    const args = ["--import", "tsx", child, join(root, dtype), dtype, String(size), String(limit)];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    const { estimate, peak } = JSON.parse(stdout) as { estimate: number; peak: number };
    expect(estimate / peak, `${estimate} estimated, ${peak} measured`).toBeGreaterThan(2 / 3);
    expect(estimate / peak, `${estimate} estimated, ${peak} measured`).toBeLessThan(4 / 3);
  },
);
