import { basename } from "node:path";
import { UserError } from "../core/errors.ts";
import { cacheFolder } from "./cache.ts";
import { type Dataset, requireTwo } from "./dataset.ts";
import { type DecodingOptions, decodedImages } from "./decoded-images.ts";
import { namedLines } from "./named-lines.ts";
import { cachedShardIndex, type Sample, type ShardIndex, shardPictures } from "./shard-index.ts";
import { tarShards } from "./tar-shards.ts";

export interface WebDatasetOptions extends DecodingOptions {
  /** `"auto"` (default): those of the `.txt` and `.json` of the samples, where there are any; then all must have one. */
  readonly captions?: "auto" | "none";
  /** `"auto"` (default): the numbers of the `.cls` of the samples, where there are any; then all must have one. */
  readonly labels?: "auto" | "none";
  /** Mirror images at random in training. */
  readonly flip?: boolean;
}

/**
 * A data set from WebDataset shards: tar archives (gzipped or not) whose members `key.jpg` (or png, webp, avif, gif),
 * `key.txt` (one caption a line), `key.json` (captions in its fields text, caption or captions) and `key.cls` (the number
 * of the class) make one sample.
 *
 * Shards are streamed, once for the words and once for the pictures; what is in memory afterwards are the pixels at the
 * training size, as with every `Dataset`: 12 KiB a picture of 64×64, so that a million take 12 GB. Words and pixels are
 * cached as those of `imageFolder`.
 *
 * @param source a folder of shards, a shard, a pattern like `shard-{000000..000007}.tar`, or a list of these
 * @throws UserError naming shard and key for truncated or damaged shards, samples without exactly one picture, without a
 *   caption or label where others have one, or with members that cannot be read
 */
export async function webDataset(source: string | readonly string[], options: WebDatasetOptions): Promise<Dataset> {
  const { captions = "auto", labels = "auto", flip = false, cache, signal } = options;
  const { shards, others: besides } = await tarShards(source);
  const from = typeof source === "string" ? source : `${shards.length} shards`;
  const folder = cache === false ? undefined : await cacheFolder(cache);
  const indices: ShardIndex[] = [];
  for (const shard of shards) indices.push(await cachedShardIndex(shard, folder, signal));

  const inShards = <T>(of: (index: ShardIndex) => readonly T[], named: (item: T) => string): string[] =>
    indices.flatMap((index, i) => of(index).map((item) => `${shards[i]!.path}: ${named(item)}`));
  refuse(
    inShards((index) => index.problems, String),
    (count) => `${count} samples in ${from} cannot be used`,
    "data",
  );
  const samples = indices.flatMap((index) => index.samples);
  const captioned = captions === "auto" && samples.some((sample) => sample.captions.length > 0);
  const labelled = labels === "auto" && samples.some((sample) => sample.label !== undefined);
  const without = (lacks: (sample: Sample) => boolean) =>
    inShards(
      (index) => index.samples.filter(lacks),
      (sample) => sample.key,
    );
  if (captioned) {
    refuse(
      without((sample) => sample.captions.length === 0),
      (count) => `${count} of ${samples.length} images in ${from} have no caption`,
      "captions",
    );
  }
  if (labelled) {
    refuse(
      without((sample) => sample.label === undefined),
      (count) => `${count} of ${samples.length} images in ${from} have no .cls`,
      "labels",
    );
  }
  const images = {
    from,
    count: samples.length,
    files: shards,
    async *read() {
      for (const shard of shards) yield* shardPictures(shard);
    },
  };
  const { pixels, indices: readable, warnings, ...layout } = await decodedImages(images, options);
  const kept = readable.map((i) => samples[i]!);
  requireTwo(from, kept.length);
  const untaken = [
    ...extensionsOf(indices),
    ...(besides.length > 0 ? [`${besides.length} files beside the shards`] : []),
  ];
  return {
    name: typeof source === "string" ? basename(source) : from,
    images: pixels.data,
    count: kept.length,
    ...layout,
    ...(labelled ? { labels: Int32Array.from(kept, ({ label }) => label!) } : {}),
    ...(captioned ? { captions: kept.map((sample) => sample.captions) } : {}),
    flip,
    warnings: [...warnings, ...(untaken.length > 0 ? [`Not taken: ${untaken.join(", ")}.`] : [])],
  };
}

function refuse(lines: readonly string[], message: (count: number) => string, field: string): void {
  if (lines.length === 0) return;
  throw new UserError(`${message(lines.length)}:\n${namedLines(lines)}`, {
    hint: "A sample is key.jpg with key.txt or key.json (and key.cls), one after the other in the shard.",
    field,
  });
}

function extensionsOf(indices: readonly ShardIndex[]): string[] {
  const counts = new Map<string, number>();
  for (const [extension, count] of indices.flatMap((index) => Object.entries(index.others))) {
    counts.set(extension, (counts.get(extension) ?? 0) + count);
  }
  return [...counts].map(([extension, count]) => `${count} .${extension}`);
}
