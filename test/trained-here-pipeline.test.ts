import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { float32, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { openTokenizer } from "../src/io/index.ts";
import type { clipText, sd3 } from "../src/models/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { closeRuns, decoded, farthest, run, type TinyPart, tinyTrained, writeTiny } from "./tiny-models.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-trained-"));
  // As a run has it, and as a folder that was copied from one.
  await writeTiny(join(folder, "run", "model"), tinyTrained("mmdit"));
  await writeTiny(join(folder, "copy"), tinyTrained("dit"));
});
afterAll(async () => {
  await closeRuns();
  await rm(folder, { recursive: true });
});

test("a run of MM-DiT draws from the last states and the pooled text of its only encoder", async () => {
  const pipe = await pipeline("text-to-image", join(folder, "run"), { threads: 1 });
  const [image] = await pipe.generate({ prompt: "a red cat", steps: 4, guidance: 1, seed: 6 });
  await pipe.close();

  const { parts } = tinyTrained("mmdit");
  const encoder = parts.text_encoder as TinyPart<ReturnType<typeof clipText>>;
  const transformer = parts.transformer as TinyPart<ReturnType<typeof sd3>>;
  const ids = (await openTokenizer(join(folder, "run", "model", "tokenizer"))).encode("a red cat");
  const padded = [...ids, ...Array<number>(77 - ids.length).fill(ids.at(-1)!)];
  const { text, pooled } = await run(encoder, { ids: int64([1, 77], padded) }, ({ ids }) => {
    const { last, pooled } = encoder.network(ids!);
    return { text: last, pooled };
  });
  let x: Float32Array = seeded(6).normal([1, 4, 8, 8]).data;
  const sigmas = [0, 1, 2, 3].map((i) => 1 - (i / 3) * 0.999).concat(0);
  for (let i = 0; i < 4; i++) {
    const feeds = { x: float32([1, 4, 8, 8], x), t: float32([1], [1000 * sigmas[i]!]), text: text!, pooled: pooled! };
    const { v } = await run(transformer, feeds, ({ x, t, text, pooled }) => ({
      v: transformer.network(x!, t!, text!, pooled!),
    }));
    x = x.map((value, j) => value + (sigmas[i + 1]! - sigmas[i]!) * v!.data[j]!);
  }
  expect(farthest(image!.float.data, await decoded(parts.vae, float32([1, 4, 8, 8], x)))).toBeLessThan(2e-4);
});

test("a DiT with T5 sees no padding", async () => {
  const pipe = await pipeline("text-to-image", join(folder, "copy"), { threads: 1 });
  const { positive, negative } = await pipe.conditions({ prompt: "a red cat", textLength: 6 });
  expect(Array.from(positive.textMask!.data)).toEqual([1, 1, 1, 1, 0, 0]);
  expect(Array.from(negative!.textMask!.data)).toEqual([1, 0, 0, 0, 0, 0]);
  const draw = async (textLength: number) => {
    const [image] = await pipe.generate({ prompt: "a red cat", steps: 2, seed: 1, textLength });
    return image!.float.data;
  };
  // So more of it changes nothing.
  expect(farthest(await draw(6), await draw(9))).toBeLessThan(1e-4);
  await pipe.close();
});
