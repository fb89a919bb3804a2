import { type MarkedPart, withMarkedPart } from "./marked-part.ts";

/** One measured place of the table: a sampler at a number of network calls. */
export interface FrechetRow {
  /** The first letters of a digest of the network's weights. */
  readonly model: string;
  readonly sampler: string;
  readonly spread?: string;
  /** The column: calls that were allowed. */
  readonly calls: number;
  /** What fits into them. */
  readonly steps: number;
  readonly used: number;
  readonly count: number;
  readonly seed: number;
  readonly guidance: number;
  readonly frechet: number;
  readonly kernel: number;
  readonly confident: number;
  /** Seconds to draw all pictures. */
  readonly seconds: number;
  /** Whether other work shared the machine meanwhile: then the seconds are not shown. */
  readonly shared?: boolean;
}

/** What as many real digits have that the judge does not know: about the best that can be reached. */
export interface RealRow {
  readonly real: true;
  readonly count: number;
  readonly frechet: number;
}

/** A column of the table: so many calls, and the pictures that each of its places is measured with. */
export type Column = Pick<FrechetRow, "calls" | "count">;

/** What must agree between all places of the table. Pictures may be fewer in another column, not in the same. */
export type Comparison = Pick<FrechetRow, "model" | "seed" | "guidance">;

/** Whether a place belongs to a comparison. */
export function belongs(row: FrechetRow, to: Comparison): boolean {
  return row.model === to.model && row.seed === to.seed && row.guidance === to.guidance;
}

/** Whether a place belongs to a column. */
export function isIn(row: Column, column: Column): boolean {
  return row.calls === column.calls && row.count === column.count;
}

const PART: MarkedPart = { name: "sampler-frechet", writer: "bench/sampler-frechet.ts" };

/** A page with its table between the two marks replaced. Throws when it has no such marks. */
export function withTable(page: string, table: string): string {
  return withMarkedPart(page, PART, table);
}

/**
 * The Fréchet distances as markdown: samplers by calls, the best of 20 calls first; and below, how long a picture took.
 * The first column's number of pictures is the table's; columns of others say so. Bold is within 10 % of the yardstick: DDPM
 * with its most calls, measured with as many pictures (which need not be a place of the table).
 */
export function frechetTable(
  rows: readonly FrechetRow[],
  reals: readonly RealRow[],
  columns: readonly Column[],
): string {
  const shown = columns.filter((column) => rows.some((row) => isIn(row, column)));
  if (shown.length === 0) return "Nothing was measured yet.";
  const counts = [...new Set(shown.map(({ count }) => count))];
  const yardsticks = new Map(counts.map((count) => [count, yardstickOf(rows, count)]));
  const cells = rows.filter((row) => shown.some((column) => isIn(row, column)));
  const names = [...new Set(cells.map(nameOf))];
  const at = (name: string, column: Column) => cells.find((row) => nameOf(row) === name && isIn(row, column));
  const sortedBy = shown.find(({ calls }) => calls === 20) ?? shown[0]!;
  const order = (name: string) => at(name, sortedBy)?.frechet ?? Number.POSITIVE_INFINITY;
  names.sort((a, b) => order(a) - order(b));
  const cell = (row: FrechetRow | undefined) => {
    if (!row) return "";
    const yardstick = yardsticks.get(row.count);
    return yardstick && row.frechet <= 1.1 * yardstick.frechet ? `**${short(row)}**` : short(row);
  };
  const main = counts[0]!;
  const head = shown.map(({ calls, count }) => `${calls} calls${count === main ? "" : `, ${count} digits`}`);
  const { guidance } = cells[0]!;
  const table = (shownIn: (row: FrechetRow | undefined) => string) => [
    `| sampler | ${head.join(" | ")} |`,
    `|---|${shown.map(() => "--:|").join("")}`,
    ...names.map((name) => `| \`${name}\` | ${shown.map((column) => shownIn(at(name, column))).join(" | ")} |`),
  ];
  const lines = [
    `Fréchet distance of ${main} drawn digits to the 10,000 real test digits, in the features of the digit classifier;`,
    `smaller is better. ${marksOf(main, reals, yardsticks)}${guidance === 1 ? "" : ` Guidance ${guidance}.`} A solver of two calls`,
    "a step takes half the steps.",
    ...counts
      .slice(1)
      .map((count) => `Of ${count} digits, all distances are larger. ${marksOf(count, reals, yardsticks)}`),
    "",
    ...table(cell),
    "",
    `Milliseconds a picture${cells.some((row) => row.shared) ? "; – where other work shared the machine" : ""}:`,
    "",
    ...table(milliseconds),
  ];
  return lines.join("\n");
}

/** DDPM with the most calls that were measured with so many pictures. */
function yardstickOf(rows: readonly FrechetRow[], count: number): FrechetRow | undefined {
  return rows
    .filter((row) => nameOf(row) === "ddpm" && row.count === count)
    .reduce<FrechetRow | undefined>((most, row) => (most && most.calls > row.calls ? most : row), undefined);
}

/** What distances of so many pictures are to be held against, in words. */
function marksOf(
  count: number,
  reals: readonly RealRow[],
  yardsticks: ReadonlyMap<number, FrechetRow | undefined>,
): string {
  const real = reals.find((row) => row.count === count);
  const yardstick = yardsticks.get(count);
  return [
    ...(real ? [`As many real training digits have ${short(real)}.`] : []),
    ...(yardstick ? [`Bold: at most 10 % above \`ddpm\` with ${yardstick.calls} calls, ${short(yardstick)}.`] : []),
  ].join(" ");
}

const short = ({ frechet }: { readonly frechet: number }) => frechet.toPrecision(3);

/** `dpm++2m`, or `dpm++2m:karras` with a spread. */
export function nameOf({ sampler, spread }: Pick<FrechetRow, "sampler" | "spread">): string {
  return spread === undefined ? sampler : `${sampler}:${spread}`;
}

function milliseconds(row: FrechetRow | undefined): string {
  if (!row) return "";
  return row.shared ? "–" : `${Number(((1000 * row.seconds) / row.count).toPrecision(2))}`;
}
