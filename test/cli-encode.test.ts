import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openLatents } from "../src/data/index.ts";
import { encodeImage, hostImage, readJsonObject } from "../src/io/index.ts";
import { allegory } from "./cli.ts";
import { smallAutoencoderFolder } from "./small-autoencoder.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-cli-encode-"));
  await smallAutoencoderFolder(join(root, "autoencoder"));
  await mkdir(join(root, "pictures"));
  for (let i = 0; i < 24; i++) {
    const image = hostImage(
      8,
      8,
      3,
      Uint8Array.from({ length: 192 }, (_, at) => (at * (i + 3)) % 256),
    );
    const name = join(root, "pictures", String(i).padStart(2, "0"));
    await writeFile(`${name}.png`, await encodeImage(image, "png"));
    await writeFile(`${name}.txt`, `picture ${i}\nnumber ${i}\n`);
  }
});
afterAll(() => rm(root, { recursive: true, force: true }));

const encode = (words: readonly string[], watch?: Parameters<typeof allegory>[1]["watch"]) =>
  allegory(["encode", "pictures", "--autoencoder", "autoencoder", "--threads", "1", ...words], {
    cwd: root,
    ...(watch ? { watch } : {}),
  });

describe("allegory encode", () => {
  test("writes latents with captions, says the measured scaling, and continues after Ctrl-C", async () => {
    let killed = false;
    const words = ["--out", "latents", "--shard", "2", "--batch", "1", "--flip"];
    const stopped = await encode([...words, "--json"], (text, kill) => {
      if (killed || !/"done":[4-9]/.test(text)) return;
      killed = true;
      kill("SIGINT");
    });
    expect(stopped.status).toBe(130);
    expect(stopped.err).toMatch(/Stopping\. What is finished is kept/);
    await expect(openLatents(join(root, "latents"))).rejects.toThrow(/is not finished/);

    const ended = await encode([...words, "--write-scaling"]);
    expect(ended.err).toBe("");
    expect(ended.out).toMatch(/latents: 24 images encoded \([1-9]\d* of them earlier\)\./);
    const latents = await openLatents(join(root, "latents"));
    latents.close();
    expect(latents).toMatchObject({ count: 24, channels: 2, height: 4, width: 4, flip: true });
    expect(latents.captions![7]).toEqual(["picture 7", "number 7"]);
    expect(ended.out).toContain(`Scaling factor ${latents.scalingFactor.toPrecision(5)} (measured: mean`);
    const config = await readJsonObject(join(root, "autoencoder", "config.json"));
    expect(config).toMatchObject({ scaling_factor: latents.scalingFactor, shift_factor: null });
  }, 120_000);

  test("names what cannot be encoded", async () => {
    const none = await encode(["--out", "others", "--captions", "metadata"]);
    expect([none.status, none.err]).toEqual([2, expect.stringContaining("has no metadata.jsonl and no metadata.csv")]);
    const missing = await allegory(["encode", "pictures", "--out", "others"], { cwd: root });
    expect(missing.status).toBe(2);
    expect(missing.err).toContain("autoencoder: it is needed: folder of the AutoencoderKL.");
  }, 120_000);
});
