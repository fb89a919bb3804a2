import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Random, seeded } from "../../../src/core/random.ts";
import type { CaseKind, Comparison } from "../case.ts";
import { compare } from "../case.ts";

interface Draw {
  readonly op: string;
  readonly shape: readonly number[];
  readonly n?: number;
  /** A string where it does not fit into 53 bits. */
  readonly low?: number | string;
  readonly high?: number | string;
  readonly mean?: number;
  readonly std?: number;
  readonly p?: number;
  readonly count: number;
  readonly values?: readonly number[];
  readonly first32?: readonly number[];
  readonly last16?: readonly number[];
  readonly sum: number;
}

interface RngFile {
  readonly cases: readonly { readonly id: string; readonly seed: number | string; readonly ops: readonly Draw[] }[];
}

/** Sequences of draws from one generator each (`rng.json`). */
export const rng: CaseKind = {
  kind: "rng",
  async discover(folder) {
    const text = await readFile(join(folder, "rng.json"), "utf8").catch(() => null);
    if (text === null) return [];
    const file = JSON.parse(text) as RngFile;
    return file.cases.map((entry) => ({
      name: `rng/${entry.id}`,
      run: async () => {
        const random = seeded(typeof entry.seed === "string" ? BigInt(entry.seed) : entry.seed);
        return entry.ops.flatMap((draw, i) => judge(`${i}:${draw.op}`, draw, perform(random, draw)));
      },
    }));
  },
};

function perform(random: Random, draw: Draw): ArrayLike<number> {
  switch (draw.op) {
    case "randn":
      return random.normal(draw.shape).data;
    case "randn64":
      return random.normal64(draw.shape).data;
    case "rand":
      return random.uniform(draw.shape).data;
    case "rand64":
      return random.uniform64(draw.shape).data;
    case "randint":
      return Float64Array.from(random.integers(whole(draw.low!), whole(draw.high!), draw.shape).data, Number);
    case "randperm":
      return random.permutation(draw.n!);
    case "normal_":
      return random.normal(draw.shape, { mean: draw.mean, std: draw.std }).data;
    case "uniform_":
      return random.uniform(draw.shape, { low: Number(draw.low), high: Number(draw.high) }).data;
    case "bernoulli_":
      return random.bernoulli(draw.p!, draw.shape).data;
    default:
      throw new Error(`the draw "${draw.op}" is not known`);
  }
}

function whole(value: number | string): number | bigint {
  return typeof value === "string" || !Number.isSafeInteger(value) ? BigInt(value) : value;
}

function judge(what: string, draw: Draw, drawn: ArrayLike<number>): Comparison[] {
  const ours = Array.from(drawn);
  const normal = draw.op.startsWith("randn") || draw.op === "normal_";
  const tolerance = normal ? { absolute: 1e-6, relative: 1e-6 } : {};
  const sum = ours.reduce((total, value) => total + value, 0);
  const compared = draw.values
    ? [compare(what, ours, draw.values, tolerance)]
    : [
        compare(`${what} first`, ours.slice(0, 32), draw.first32 ?? [], tolerance),
        compare(`${what} last`, ours.slice(-16), draw.last16 ?? [], tolerance),
      ];
  return [
    ...compared,
    compare(`${what} count`, [ours.length], [draw.count], {}),
    compare(`${what} sum`, [sum], [draw.sum], { absolute: 1e-4 * draw.count }),
  ];
}
