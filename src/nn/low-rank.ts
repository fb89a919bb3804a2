import { invariant } from "../core/errors.ts";
import type { Tensor } from "../graph/index.ts";

/**
 * A low-rank addition to a layer (Hu et al. 2021, "LoRA"): the layer computes W·x + scale·up·(down·x) without W being
 * touched, so it can be switched by its scale, and trained.
 */
export interface LowRank {
  /** [rank, inputs] for a linear layer, [rank, inputs, kernel, kernel] for a convolution. */
  readonly down: Tensor;
  /** [outputs, rank] or [outputs, rank, 1, 1]. */
  readonly up: Tensor;
  /** A scalar. */
  readonly scale: Tensor;
}

/** Low-rank additions by the weight of the layer they belong to. */
export type LowRankBranches = ReadonlyMap<Tensor, readonly LowRank[]>;

let current: LowRankBranches = new Map();
let met = new Set<Tensor>();

/**
 * Runs `build` so that the linear layers and convolutions of these weights get their additions in the graph it builds.
 * @param partly `build` may leave layers out; without it, each addition must have met its layer
 */
export function withLowRank<T>(branches: LowRankBranches, build: () => T, { partly = false } = {}): T {
  const outer = { current, met };
  current = branches;
  met = new Set();
  try {
    const result = build();
    const unmet = [...branches.keys()].filter((weight) => !met.has(weight)).length;
    invariant(
      partly || unmet === 0,
      `${unmet} low-rank additions belong to weights that no linear layer or convolution used`,
    );
    return result;
  } finally {
    ({ current, met } = outer);
  }
}

/** The additions to the layer with this weight in the graph being built. */
export function lowRankOf(weight: Tensor): readonly LowRank[] {
  const found = current.get(weight);
  if (!found) return [];
  met.add(weight);
  return found;
}
