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

// U-Nets of 137 and 35 million parameters, loaded as large and as small ones, measured in processes of their own.
const WIDTHS = { large: [128, 256, 512, 512], small: [64, 128, 256, 256] } as const;

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-memory-"));
  for (const [size, block_out_channels] of Object.entries(WIDTHS)) {
    const network = unet2dCondition({ block_out_channels, cross_attention_dim: 256, attention_head_dim: 8 });
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
      const model = { className: "UNet2DConditionModel", config, tensors };
      await writeModelFolder(join(root, `${size}-${dtype}`), model, { dtype });
    }
  }
});
afterAll(() => rm(root, { recursive: true, force: true }));

test.each([
  ["large", "float32", 16, 32],
  ["large", "float32", 48, 32],
  ["large", "float16", 32, 32],
  ["large", "float32", 32, 4],
  ["small", "float32", 48, 32],
  ["small", "float16", 32, 32],
  ["small", "float32", 32, 8],
] as const)(
  "the estimate for a %s network of %s weights on latents of %i pixels, with linear layers in %i bits, is within a fifth",
  async (size, dtype, pixels, bits) => {
    const child = fileURLToPath(new URL("./inference-memory-child.ts", import.meta.url));
    const args = ["--import", "tsx", child, join(root, `${size}-${dtype}`), dtype, String(pixels)];
    const { stdout } = await promisify(execFile)(process.execPath, bits < 32 ? [...args, String(bits)] : args);
    const { estimate, peak } = JSON.parse(stdout) as { estimate: number; peak: number };
    expect(estimate / peak, `${estimate} estimated, ${peak} measured`).toBeGreaterThan(0.8);
    expect(estimate / peak, `${estimate} estimated, ${peak} measured`).toBeLessThan(1.2);
  },
);
