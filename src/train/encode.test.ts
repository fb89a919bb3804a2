import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { smallAutoencoderFolder } from "../../test/small-autoencoder.ts";
import { smallDataset } from "../../test/train-small-data.ts";
import { seeded } from "../core/random.ts";
import { type Dataset, imagesAt, openLatents } from "../data/index.ts";
import { convertFloat, readJsonObject } from "../io/index.ts";
import { openAutoencoder } from "./autoencoder-session.ts";
import { type EncodeOptions, type EncodeResult, encodeDataset, recordScaling } from "./encode.ts";

let root: string;
let autoencoder: string;
/** What the data set is as latents, encoded by two sessions at one go. */
let whole: EncodeResult;
const words = Array.from({ length: 10 }, (_, i) => [`picture ${i}`, `number ${i}`]);
const dataset: Dataset = { ...smallDataset({ channels: 3, classes: 3, flip: true }), captions: words };

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-encode-"));
  autoencoder = await smallAutoencoderFolder(join(root, "autoencoder"), {});
  whole = await encode({ threads: 2, shift: true });
}, 60_000);
afterAll(() => rm(root, { recursive: true, force: true }));

let outs = 0;
const encode = (change: Partial<EncodeOptions> = {}, data = dataset) =>
  encodeDataset(data, { autoencoder, out: join(root, `out-${outs++}`), batch: 3, shard: 4, threads: 1, ...change });

describe("encoding a data set", () => {
  it("gives the moments that the encoder gives of each picture and of the mirrored one, in half precision", async () => {
    expect([whole.count, whole.encoded]).toEqual([10, 10]);
    const latents = await openLatents(whole.folder);
    expect(latents).toMatchObject({
      ...{ name: dataset.name, count: 10, channels: 2, height: 4, width: 4, flip: true, captions: words },
      ...{ image: { channels: 3, height: 8, width: 8 }, labels: dataset.labels },
    });
    const session = await openAutoencoder(autoencoder, { threads: 1 });
    const bits = new Uint16Array(64);
    for (let i = 0; i < 10; i++) {
      const picture = imagesAt(dataset, [i]);
      const turned = { ...picture, data: picture.data.map((_, at, all) => all[at - (at % 8) + 7 - (at % 8)]!) };
      for (const [mirrored, image] of [picture, turned].entries()) {
        latents.read(i, mirrored === 1, bits);
        const expected = convertFloat(await session.encode(image), "float16");
        // Another batch may add up in another order.
        const difference = expected.data.map((value, at) => Math.abs(value - bits[at]!));
        expect(Math.max(...difference)).toBeLessThanOrEqual(1);
      }
    }
    await session.close();
    latents.close();
  });

  it("that is stopped continues: finished shards are kept as they are", async () => {
    const out = join(root, "stopped");
    const controller = new AbortController();
    const onProgress = ({ done }: { done: number }) => {
      if (done >= 6) controller.abort(new Error("stopped by the test"));
    };
    await expect(encode({ out, signal: controller.signal, onProgress })).rejects.toThrow("stopped by the test");
    await expect(openLatents(out)).rejects.toThrow(/is not finished/);
    const first = join(out, "latents-00000.safetensors");
    const { mtimeMs } = await stat(first);
    const told: { done: number; total: number }[] = [];
    const result = await encode({ out, onProgress: (progress) => void told.push(progress) });
    expect(result.encoded).toBe(6);
    expect((await stat(first)).mtimeMs).toBe(mtimeMs);
    expect(told[0]).toMatchObject({ done: 4, total: 10 });
    expect(told.at(-1)).toMatchObject({ done: 10, total: 10, secondsLeft: 0 });
    // The same as at one go.
    for (const shard of ["latents-00000", "latents-00001", "latents-00002"]) {
      const [a, b] = await Promise.all([out, whole.folder].map((f) => readFile(join(f, `${shard}.safetensors`))));
      expect(Buffer.compare(a!, b!)).toBe(0);
    }
    expect((await encode({ out })).encoded).toBe(0);
  });

  it("is not continued with another encoder or other data, but with another decoder or scaling", async () => {
    const out = whole.folder;
    const change = (name: string, values: Float32Array) => {
      if (name === "encoder.conv_in.weight") values[0]! += 0.01;
    };
    const encoder = await smallAutoencoderFolder(join(root, "other-encoder"), { change });
    await expect(encode({ out, autoencoder: encoder })).rejects.toThrow(/something else:\n {2}another autoencoder/);
    const captions = words.map(([first]) => [first!]);
    await expect(encode({ out }, { ...dataset, captions })).rejects.toThrow(/something else:\n {2}other data/);
    const decoder = await smallAutoencoderFolder(join(root, "other-decoder"), {
      change: (name, values) => {
        if (name === "decoder.conv_in.weight") values[0]! += 0.01;
      },
      config: { scaling_factor: 0.5, shift_factor: 0.25 },
    });
    expect(await encode({ out, autoencoder: decoder })).toMatchObject({
      encoded: 0,
      scalingFactor: 0.5,
      shiftFactor: 0.25,
    });
  });

  it("takes the configured scaling, or measures what gives latents deviation 1 and writes it down when asked", async () => {
    // Nothing is encoded again.
    const { folder, scalingFactor, shiftFactor, measured } = await encode({ out: whole.folder, shift: true });
    expect(shiftFactor).toBe(measured!.mean);
    const latents = await openLatents(folder);
    expect(latents).toMatchObject({ scalingFactor, shiftFactor });
    // All numbers of samples of the posteriors, scaled.
    const random = seeded(9);
    const bits = new Uint16Array(64);
    const numbers: number[] = [];
    for (let i = 0; i < 10; i++) {
      for (const mirrored of [false, true]) {
        latents.read(i, mirrored, bits);
        const { data } = convertFloat({ dtype: "float16", shape: [64], data: bits }, "float32");
        for (let draw = 0; draw < 50; draw++) {
          const noise = random.normal([32]).data;
          noise.forEach((n, at) => {
            numbers.push((data[at]! + Math.exp(data[32 + at]! / 2) * n - shiftFactor) * scalingFactor);
          });
        }
      }
    }
    latents.close();
    const mean = numbers.reduce((a, b) => a + b) / numbers.length;
    const variance = numbers.reduce((sum, n) => sum + (n - mean) ** 2, 0) / numbers.length;
    expect(mean).toBeCloseTo(0, 1);
    expect(variance).toBeCloseTo(1, 1);

    const copy = await smallAutoencoderFolder(join(root, "recorded"), {});
    await recordScaling(copy, { scalingFactor, shiftFactor });
    expect(await readJsonObject(join(copy, "config.json"))).toMatchObject({
      scaling_factor: scalingFactor,
      shift_factor: shiftFactor,
    });
    // What is recorded is kept from then on.
    const again = await encode({ autoencoder: copy, out: folder });
    expect(again).toMatchObject({ encoded: 0, scalingFactor, shiftFactor, measured: undefined });
    const config = await encode({ out: folder, scaling: "config" });
    expect(config).toMatchObject({ encoded: 0, scalingFactor: 1, shiftFactor: 0, measured: undefined });
  });

  it("refuses data that do not fit, other models and latents that half precision cannot hold", async () => {
    const gray = smallDataset();
    await expect(encode({}, gray)).rejects.toThrow(/images of 1 channels, the autoencoder takes 3/);
    const odd = smallDataset({ channels: 3, size: 7 });
    await expect(encode({}, odd)).rejects.toThrow(/Images of 7×7 pixels cannot be encoded: 2 pixels become one/);
    const large = await smallAutoencoderFolder(join(root, "large"), {
      change: (name, values) => {
        if (name === "quant_conv.bias") values.fill(1e6);
      },
    });
    await expect(encode({ autoencoder: large })).rejects.toThrow(/Image 0 of random images has latents beyond half/);
    const byChannel = await smallAutoencoderFolder(join(root, "by-channel"), {
      config: { latents_mean: [0, 0], latents_std: [1, 1] },
    });
    await expect(encode({ autoencoder: byChannel })).rejects.toThrow(/scales each channel of its latents on its own/);
    await expect(encode({ autoencoder: root })).rejects.toThrow(/There is no file .*config\.json/);
  });
});
