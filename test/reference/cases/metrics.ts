import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readSafetensors } from "../../../src/io/safetensors.ts";
import { type Features, frechetDistance, kernelDistance, precisionRecall } from "../../../src/metrics/index.ts";
import type { CaseKind, Comparison } from "../case.ts";
import { compare } from "../case.ts";

interface DistanceCase {
  readonly name: string;
  readonly a: string;
  readonly b: string;
  readonly frechet: number;
  readonly frechet_by_eigenvalues?: number;
  readonly frechet_of_a_with_itself?: number;
  readonly kid?: number;
  readonly kid_of_a_with_other_half?: number;
}

interface PrecisionCase {
  readonly name: string;
  readonly real: string;
  readonly fake: string;
  readonly k: number;
  readonly precision: number;
  readonly recall: number;
}

type Tensors = (name: string) => Promise<Features>;

/** Distances between sets of features (`metrics.json`, `metrics.safetensors`). */
export const metrics: CaseKind = {
  kind: "metrics",
  async discover(folder) {
    const text = await readFile(join(folder, "metrics.json"), "utf8").catch(() => null);
    if (text === null) return [];
    const path = join(folder, "metrics.safetensors");
    let all: ReturnType<typeof readSafetensors> | undefined;
    const tensors: Tensors = async (name) => {
      all ??= readSafetensors(path);
      const tensor = (await all).get(name);
      if (tensor?.dtype !== "float32") throw new Error(`${path} has no float32 tensor "${name}"`);
      return tensor as Features;
    };
    const { cases } = JSON.parse(text) as { cases: readonly (DistanceCase | PrecisionCase)[] };
    return cases.map((each) => ({
      name: `metrics/${each.name}`,
      run: () => ("real" in each ? checkPrecision(each, tensors) : checkDistances(each, tensors)),
    }));
  },
};

async function checkDistances(entry: DistanceCase, tensors: Tensors): Promise<Comparison[]> {
  const [a, b] = await Promise.all([tensors(entry.a), tensors(entry.b)]);
  // With fewer rows than columns the covariance is singular: sqrtm is inexact there, the eigenvalues are the reference.
  const singular = [a, b].some(({ shape }) => shape[0]! <= shape[1]!);
  const distance = frechetDistance(a, b);
  const results: Comparison[] = [];
  const expect = (what: string, ours: number, theirs: number | undefined, tolerance: Parameters<typeof compare>[3]) => {
    if (theirs !== undefined) results.push(compare(what, [ours], [theirs], tolerance));
  };
  const relative = singular ? 1e-3 : 1e-6;
  if (!singular) expect("frechet", distance, entry.frechet, { relative });
  expect("frechet_by_eigenvalues", distance, entry.frechet_by_eigenvalues, { relative });
  // Zero but for rounding: measured against the size of the distance.
  const rounding = relative * Math.max(1, Math.abs(entry.frechet));
  expect("frechet_of_a_with_itself", frechetDistance(a, a), entry.frechet_of_a_with_itself, { absolute: rounding });
  expect("kid", kernelDistance(a, b), entry.kid, { absolute: 1e-8 });
  const [first, second] = halves(a);
  expect("kid_of_a_with_other_half", kernelDistance(first, second), entry.kid_of_a_with_other_half, {
    absolute: 1e-8,
  });
  return results;
}

async function checkPrecision(entry: PrecisionCase, tensors: Tensors): Promise<Comparison[]> {
  const ours = precisionRecall(await tensors(entry.real), await tensors(entry.fake), { k: entry.k });
  return (["precision", "recall"] as const).map((what) => compare(what, [ours[what]], [entry[what]], {}));
}

function halves({ shape, data }: Features): [Features, Features] {
  const [count, width] = shape as [number, number];
  const half = Math.floor(count / 2);
  const part = (from: number, to: number): Features => ({
    dtype: "float64",
    shape: [to - from, width],
    data: Float64Array.from(data.subarray(from * width, to * width)),
  });
  return [part(0, half), part(half, count)];
}
