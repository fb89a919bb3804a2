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
}

/** What as many real digits have that the judge does not know: about the best that can be reached. */
export interface RealRow {
  readonly real: true;
  readonly count: number;
  readonly frechet: number;
}

/** What must agree between places that are compared. */
export type Comparison = Pick<FrechetRow, "model" | "count" | "seed" | "guidance">;

/** Whether a place belongs to a comparison. */
export function belongs(row: FrechetRow, to: Comparison): boolean {
  return row.model === to.model && row.count === to.count && row.seed === to.seed && row.guidance === to.guidance;
}

const PART: MarkedPart = { name: "sampler-frechet", writer: "bench/sampler-frechet.ts" };

/** A page with its table between the two marks replaced. Throws when it has no such marks. */
export function withTable(page: string, table: string): string {
  return withMarkedPart(page, PART, table);
}

/**
 * The Fréchet distances as markdown: samplers by calls, the best of 20 calls first. Bold is within 10 % of DDPM with
 * its most calls, the rest of the page's yardstick.
 */
export function frechetTable(rows: readonly FrechetRow[], real: RealRow | undefined): string {
  if (rows.length === 0) return "Nothing was measured yet.";
  const calls = [...new Set(rows.map((row) => row.calls))].sort((a, b) => a - b);
  const names = [...new Set(rows.map(nameOf))];
  const at = (name: string, count: number) => rows.find((row) => nameOf(row) === name && row.calls === count);
  const reference = rows
    .filter((row) => nameOf(row) === "ddpm")
    .reduce<FrechetRow | undefined>((most, row) => (most && most.calls > row.calls ? most : row), undefined);
  const sortedBy = calls.includes(20) ? 20 : calls[0]!;
  const order = (name: string) => at(name, sortedBy)?.frechet ?? Number.POSITIVE_INFINITY;
  names.sort((a, b) => order(a) - order(b));
  const cell = (row: FrechetRow | undefined) => {
    if (!row) return "";
    const text = row.frechet.toPrecision(3);
    return reference && row.frechet <= 1.1 * reference.frechet ? `**${text}**` : text;
  };
  const first = rows[0]!;
  const head = ["sampler", ...calls.map((count) => `${count} calls`)];
  const lines = [
    `Fréchet distance of ${first.count} drawn digits to the 10,000 real test digits, in the features of the digit`,
    `classifier; smaller is better.${real ? ` As many real training digits have ${real.frechet.toPrecision(3)}.` : ""}${
      reference ? ` Bold: at most 10 % above ddpm with ${reference.calls} calls.` : ""
    }${first.guidance === 1 ? "" : ` Guidance ${first.guidance}.`} A solver of two calls a step takes half the steps.`,
    "",
    `| ${head.join(" | ")} |`,
    `|---|${calls.map(() => "--:|").join("")}`,
    ...names.map((name) => `| \`${name}\` | ${calls.map((count) => cell(at(name, count))).join(" | ")} |`),
    `| *milliseconds a picture* | ${calls.map((count) => milliseconds(rows, count)).join(" | ")} |`,
  ];
  return lines.join("\n");
}

/** `dpm++2m`, or `dpm++2m:karras` with a spread. */
export function nameOf({ sampler, spread }: Pick<FrechetRow, "sampler" | "spread">): string {
  return spread === undefined ? sampler : `${sampler}:${spread}`;
}

/** The fastest of the samplers: they make the same number of calls, and the others shared the machine more. */
function milliseconds(rows: readonly FrechetRow[], calls: number): string {
  const times = rows
    .filter((row) => row.calls === calls)
    .map(({ seconds, count, used }) => ((1000 * seconds) / count) * (calls / used));
  return `${Number(Math.min(...times).toPrecision(2))}`;
}
