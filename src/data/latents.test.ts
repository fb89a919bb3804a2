import { mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { convertFloat } from "../io/half-precision.ts";
import { readSafetensors } from "../io/safetensors.ts";
import { batches } from "./batches.ts";
import type { Dataset } from "./dataset.ts";
import { rescaleLatents, shardFile } from "./latent-format.ts";
import { type LatentDescription, latentWriter } from "./latent-writer.ts";
import { latentBatches, measureScaling, openLatents } from "./latents.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-latents-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const captions = [["a", "b"], ["c"], ["d", "e", "f"], ["g"], ["h", "i"]];

function description(change: Partial<LatentDescription> = {}): LatentDescription {
  return {
    name: "five",
    autoencoder: "one autoencoder",
    source: "some pictures",
    count: 5,
    channels: 2,
    height: 2,
    width: 3,
    image: { channels: 3, height: 4, width: 6 },
    flip: true,
    labels: true,
    captions: true,
    classNames: ["x", "y"],
    shard: 2,
    ...change,
  };
}

/** Moments whose means are 100 · image (+ 50 where mirrored) + position, and whose log variances are -image. */
function moments(from: number, to: number, mirrored: boolean) {
  const values = Array.from({ length: to - from }, (_, i) => [
    ...Array.from({ length: 12 }, (_, at) => 100 * (from + i) + (mirrored ? 50 : 0) + at),
    ...new Array<number>(12).fill(-(from + i)),
  ]);
  return convertFloat(float32([to - from, 4, 2, 3], values.flat()), "float16");
}

async function write(folder: string, change: Partial<LatentDescription> = {}, shards = 3): Promise<number[]> {
  const told = description(change);
  const writer = await latentWriter(folder, told);
  const written: number[] = [];
  for (const { from, to } of writer.missing.slice(0, shards)) {
    await writer.write(from, {
      moments: moments(from, to, false),
      ...(told.flip ? { mirrored: moments(from, to, true) } : {}),
      ...(told.captions ? { captions: captions.slice(from, to) } : {}),
      ...(told.labels ? { labels: Int32Array.from({ length: to - from }, (_, i) => (from + i) % 2) } : {}),
    });
    written.push(from);
  }
  if (written.length === writer.missing.length) await writer.finish({ scalingFactor: 0.5, shiftFactor: 0 });
  return written;
}

const fresh = async () => mkdtemp(join(root, "set-")).then((folder) => join(folder, "latents"));

describe("a latent data set", () => {
  it("is read as it was written, moments from the disk", async () => {
    const folder = await fresh();
    expect(await write(folder)).toEqual([0, 2, 4]);
    const latents = await openLatents(folder);
    expect(latents).toMatchObject({
      ...{ name: "five", count: 5, channels: 2, height: 2, width: 3, flip: true, scalingFactor: 0.5, shiftFactor: 0 },
      ...{ image: { channels: 3, height: 4, width: 6 }, classNames: ["x", "y"], captions },
    });
    expect(latents.labels).toEqual(Int32Array.of(0, 1, 0, 1, 0));
    const bits = new Uint16Array(24);
    for (const image of [4, 1]) {
      for (const mirrored of [false, true]) {
        latents.read(image, mirrored, bits);
        expect(bits).toEqual(moments(image, image + 1, mirrored).data);
      }
    }
    latents.close();
    expect(() => latents.read(0, false, bits)).toThrow(/closed/);
    // The shards are plain safetensors files.
    const tensors = await readSafetensors(shardFile(folder, 2));
    expect(tensors.get("moments")).toEqual(moments(4, 5, false));
    expect(tensors.get("mirrored")).toEqual(moments(4, 5, true));
  });

  it("gives batches in the order of the pictures' own, mirrored and captioned alike, and goes on exactly", async () => {
    const folder = await fresh();
    await write(folder);
    const latents = await openLatents(folder);
    const pictures: Dataset = {
      ...{ name: "five", images: new Uint8Array(5), count: 5, channels: 1, height: 1, width: 1, flip: true },
      ...{ captions, labels: Int32Array.of(0, 1, 0, 1, 0), warnings: [] },
    };
    const ours = latentBatches(latents, { batch: 4, seed: 7 });
    const theirs = batches(pictures, { batch: 4, seed: 7 });
    const seen = new Set<string>();
    for (let i = 0; i < 30; i++) {
      const { moments: drawn, ...words } = ours.next();
      const { images: _, labels, ...expected } = theirs.next();
      expect(words).toEqual({ ...expected, labels: Array.from(labels!.data, Number) });
      expect(drawn.shape).toEqual([4, 4, 2, 3]);
      words.indices.forEach((image, at) => {
        expect(drawn.data[at * 24 + 3]).toBe(100 * image + (words.flipped[at] ? 50 : 0) + 3);
        expect(drawn.data[at * 24 + 23]).toBe(-image);
        expect(captions[image]).toContain(words.captions![at]);
        seen.add(words.captions![at]!);
      });
    }
    // Every caption has its turn.
    expect(seen.size).toBe(captions.flat().length);
    const from = JSON.parse(JSON.stringify(ours.position()));
    const next = [ours.next(), ours.next()];
    const continued = latentBatches(latents, { batch: 4, seed: 7, from });
    expect([continued.next(), continued.next()]).toEqual(next);
    latents.close();
  });

  it("is continued where it was stopped: finished shards stay, a damaged one is done again", async () => {
    const folder = await fresh();
    expect(await write(folder, {}, 2)).toEqual([0, 2]);
    await expect(openLatents(folder)).rejects.toThrow(/is not finished/);
    const first = await readFile(shardFile(folder, 0));
    await truncate(shardFile(folder, 1), 300);
    await writeFile(join(folder, ".latents-00002.safetensors.999999999-01234567.tmp"), "a process that was killed");
    expect(await write(folder)).toEqual([2, 4]);
    expect(Buffer.compare(await readFile(shardFile(folder, 0)), first)).toBe(0);
    expect(await write(folder)).toEqual([]);
    (await openLatents(folder)).close();
  });

  it("is not continued with other data, another autoencoder or in a folder of something else", async () => {
    const folder = await fresh();
    await write(folder);
    await expect(write(folder, { source: "other pictures", flip: false })).rejects.toThrow(
      /latents of something else:\n {2}other data: .*\n {2}with or without mirrored images\n/,
    );
    await expect(write(folder, { autoencoder: "x" })).rejects.toThrow(/another autoencoder: other weights/);
    // What was there is still there.
    (await openLatents(folder)).close();
    await expect(write(root)).rejects.toThrow(/is not empty and holds no latents\.json/);
  });

  it("with shards that are missing or of another set is refused by name", async () => {
    const folder = await fresh();
    await write(folder);
    const other = await fresh();
    await write(other, { source: "other pictures" });
    await writeFile(shardFile(folder, 1), await readFile(shardFile(other, 1)));
    await expect(openLatents(folder)).rejects.toThrow(/latents-00001\.safetensors is not the shard of images 2 to 3/);
    await rm(shardFile(folder, 1));
    await expect(openLatents(folder)).rejects.toThrow(/There is no file .*latents-00001\.safetensors/);
    await expect(openLatents(join(root, "nowhere"))).rejects.toThrow(/There is no file .*latents\.json/);
    await writeFile(join(folder, "latents.json"), '{"format": "allegory latents 2"}');
    await expect(openLatents(folder)).rejects.toThrow(/latents\.json cannot be used/);
  });

  it("has a fingerprint of everything a batch is made of", async () => {
    const prints = new Set<string>();
    for (const change of [{}, { source: "other pictures" }, { autoencoder: "x" }, { flip: false }, { name: "same" }]) {
      const folder = await fresh();
      await write(folder, change);
      const latents = await openLatents(folder);
      latents.close();
      prints.add(latents.fingerprint);
    }
    expect(prints.size).toBe(4);
  });
});

describe("the scaling of latents", () => {
  it("is one over the deviation of samples of the posterior", async () => {
    const folder = await fresh();
    const count = 400;
    const told = description({ count, shard: count, flip: false, labels: false, captions: false });
    const writer = await latentWriter(folder, told);
    const random = seeded(3);
    const size = 12;
    const means = random.normal([count * size], { mean: 1.5, std: 2 }).data;
    const logVariances = random.uniform([count * size], { low: -3, high: 1 }).data;
    const data = new Float32Array(count * 2 * size);
    for (let i = 0; i < count; i++) {
      data.set(means.subarray(i * size, (i + 1) * size), 2 * i * size);
      data.set(logVariances.subarray(i * size, (i + 1) * size), (2 * i + 1) * size);
    }
    await writer.write(0, { moments: convertFloat(float32([count, 4, 2, 3], data), "float16") });
    await writer.finish({ scalingFactor: 1, shiftFactor: 0 });
    const latents = await openLatents(folder);
    const measured = measureScaling(latents);
    latents.close();

    // Drawn instead: a hundred samples of each number.
    let sum = 0;
    let squares = 0;
    const draws = 100;
    for (let draw = 0; draw < draws; draw++) {
      const noise = random.normal([count * size]).data;
      for (let i = 0; i < noise.length; i++) {
        const z = means[i]! + Math.exp(logVariances[i]! / 2) * noise[i]!;
        sum += z;
        squares += z * z;
      }
    }
    const mean = sum / (draws * count * size);
    const deviation = Math.sqrt(squares / (draws * count * size) - mean * mean);
    expect(measured.mean).toBeCloseTo(mean, 2);
    expect(measured.deviation / deviation).toBeCloseTo(1, 2);
    expect(measured.scalingFactor).toBe(1 / measured.deviation);

    await rescaleLatents(folder, { scalingFactor: measured.scalingFactor, shiftFactor: measured.mean });
    const scaled = await openLatents(folder);
    scaled.close();
    expect(scaled).toMatchObject({ scalingFactor: measured.scalingFactor, shiftFactor: measured.mean });
    expect(scaled.fingerprint).not.toBe(latents.fingerprint);
    await expect(rescaleLatents(folder, { scalingFactor: 0, shiftFactor: 0 })).rejects.toThrow(/scalingFactor/);
  });

  it("of latents that do not vary is refused", async () => {
    const folder = await fresh();
    const told = description({ count: 2, flip: false, labels: false, captions: false });
    const writer = await latentWriter(folder, told);
    const data = new Float32Array(48).fill(-30);
    for (const at of [0, 24]) data.fill(1, at, at + 12);
    await writer.write(0, { moments: convertFloat(float32([2, 4, 2, 3], data), "float16") });
    await writer.finish({ scalingFactor: 1, shiftFactor: 0 });
    const latents = await openLatents(folder);
    expect(() => measureScaling(latents)).toThrow(/do not vary/);
    latents.close();
  });
});
