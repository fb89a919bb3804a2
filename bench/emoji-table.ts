import type { HalfDistances } from "../src/metrics/index.ts";
import { type MarkedPart, withMarkedPart } from "./marked-part.ts";

/** What must agree between places that are compared. */
export interface EmojiComparison {
  /** The first letters of digests of the weights: of the retrieval model that judges, and of the model that drew. */
  readonly judge: string;
  readonly model: string;
  readonly pictures: number;
  readonly captions: number;
  /** Chooses the captions and is the seed of the first picture. */
  readonly seed: number;
  readonly sampler: string;
  readonly steps: number;
  /** The training pictures that neighbours are looked for among. */
  readonly trainedOn: string;
}

/** The shares of pictures whose caption is among the most similar of all. */
export interface Shares {
  readonly top1: number;
  readonly top5: number;
  readonly top10: number;
}

/** See `Memorization` in src/metrics. */
export interface Nearness {
  readonly nearerThanTypical: number;
  readonly copies: number;
}

export interface Nearnesses {
  /** The share whose nearest training picture in the judge's features is the one of the caption asked for. */
  readonly own?: number;
  readonly features: Nearness;
  readonly pixels: Nearness;
}

/** One place of the table: pictures drawn with one weight of the prompt. */
export interface EmojiRow extends EmojiComparison, HalfDistances {
  readonly guidance: number;
  readonly alignment: Shares;
  readonly nearness: Nearnesses;
  /** To draw all pictures. */
  readonly seconds: number;
}

/** What real pictures get. */
export interface RealEmoji {
  /** As many pictures of one half of those trained on, to the other half. */
  readonly halves: HalfDistances;
  /** Pictures that were trained on, and their captions' alignment: the same captions as of the drawn ones. */
  readonly trainedOn: Shares & { readonly count: number };
  /** Pictures that were not trained on, expected among as many of their captions; and how near they are to those. */
  readonly heldOut: Shares & { readonly count: number; readonly nearness: Nearnesses };
}

const COMPARED = ["judge", "model", "pictures", "captions", "seed", "sampler", "steps", "trainedOn"] as const;

/** Whether a place belongs to a comparison. */
export function belongsTo(row: EmojiRow, comparison: EmojiComparison): boolean {
  return COMPARED.every((field) => row[field] === comparison[field]);
}

const PART: MarkedPart = { name: "emoji-judgement", writer: "bench/emoji-judgement.ts" };

/** A page with its table between the two marks replaced. Throws when it has no such marks. */
export function withEmojiTable(page: string, table: string): string {
  return withMarkedPart(page, PART, table);
}

/** The judgements as markdown: one row a weight of the prompt, then what real pictures get and what chance gives. */
export function emojiTable(rows: readonly EmojiRow[], real: RealEmoji): string {
  const [first] = rows;
  const ordered = [...rows].sort((a, b) => a.guidance - b.guidance);
  const chance = (top: number) => percent(first ? Math.min(1, top / first.captions) : undefined);
  const lines = [
    ...(first
      ? [
          `${first.pictures} pictures of ${first.captions} captions, ${first.steps} steps of \`${first.sampler}\`, seeds from ${first.seed} on;`,
          "the caption asked for among all of them by similarity, the distances to half of the real pictures (mean of ten",
          "splits), and the nearest training picture of each.",
          "",
        ]
      : []),
    "| | first | in 5 | in 10 | Fréchet | kernel × 10³ | nearest is its own | nearer than typical: features, pixels | copies: features, pixels |",
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ...ordered.map((row) =>
      tableRow(`guidance ${row.guidance}`, { shares: row.alignment, distances: row, nearness: row.nearness }),
    ),
    tableRow("*real, trained on*", { shares: real.trainedOn, distances: real.halves }),
    tableRow("*real, held out*", { shares: real.heldOut, nearness: real.heldOut.nearness }),
    ...(first ? [`| *chance* | ${[1, 5, 10].map(chance).join(" | ")} | | | | | |`] : []),
  ];
  return lines.join("\n");
}

function tableRow(
  name: string,
  {
    shares,
    distances,
    nearness,
  }: { readonly shares: Shares; readonly distances?: HalfDistances; readonly nearness?: Nearnesses },
): string {
  const pair = (field: keyof Nearness) =>
    nearness ? `${percent(nearness.features[field])}, ${percent(nearness.pixels[field])}` : "";
  const cells = [
    ...[shares.top1, shares.top5, shares.top10].map(percent),
    distances?.frechet.mean.toPrecision(3) ?? "",
    distances ? (1000 * distances.kernel.mean).toPrecision(3) : "",
    percent(nearness?.own),
    pair("nearerThanTypical"),
    pair("copies"),
  ];
  return `| ${name} | ${cells.join(" | ")} |`;
}

function percent(share: number | undefined): string {
  return share === undefined ? "" : `${(100 * share).toFixed(1).replace(/\.0$/, "")} %`;
}
