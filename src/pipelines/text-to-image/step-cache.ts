import type { Call, Samples } from "../../diffusion/index.ts";
import type { Tensor } from "../../graph/index.ts";
import type { Residuals } from "./control.ts";

/**
 * Deep states of a U-Net that are used again in later steps (Ma, Fang and Wang 2023, "DeepCache"): they change slowly from
 * step to step, while the shallow layers, which draw the details, are computed anew.
 *
 * There are two graphs: the whole network, which also hands out the state of the way up that still `depth` states of the way
 * down are joined to; and the shallow one, which begins its way up with that state and so holds no layer that lies deeper.
 */
export interface StepCache {
  /** States of the way down that are joined to the kept one: how much of the network is computed anew. */
  readonly depth: number;
  /** What a call uses again; undefined where the whole network runs. */
  at(call: Call, batch: number): Kept | undefined;
  /** What the whole network said at a call, for the calls to come. */
  keep(kept: Kept, call: Call): void;
}

/** What is used again. */
export interface Kept {
  /** [n, channels, h, w] */
  readonly deep: Samples;
  /** What a control network added to the whole: it is not asked again either. */
  readonly residuals: Residuals | undefined;
}

export interface StepCacheOptions {
  /** The whole network runs in each of so many steps once. */
  readonly every: number;
  readonly depth: number;
  /** The step the run begins with. */
  readonly first: number;
}

/** The cache of one run. Of samplers with several calls in a step, all of its calls are whole or shallow. */
export function stepCache({ every, depth, first }: StepCacheOptions): StepCache {
  let last: { readonly kept: Kept; readonly step: number } | undefined;
  return {
    depth,
    at({ step }, batch) {
      // With and without guidance batches differ: a state of one is none of the other. Where guidance was off for a while it is old.
      const fits = last?.kept.deep.shape[0] === batch && step - last.step < every;
      return fits && (step - first) % every !== 0 ? last!.kept : undefined;
    },
    keep(kept, { step }) {
      last = { kept, step };
    },
  };
}

/** Feeds of the shallow graph in the place of a control network's residuals: the kept state, and what belongs to the depth. */
export function shallowFeeds({ deep, residuals }: Kept, depth: number): Readonly<Record<string, Samples>> {
  const own = Object.entries(residuals ?? {}).filter(([name]) => shallowResidual(name, depth));
  return { deep, ...Object.fromEntries(own) };
}

function shallowResidual(name: string, depth: number): boolean {
  const [, index] = /^down(\d+)$/.exec(name) ?? [];
  return index !== undefined && Number(index) < depth;
}

/** What watches the way up of the whole network for the state to keep. */
export function deepState(depth: number) {
  let state: Tensor | undefined;
  return {
    onWayUp(h: Tensor, left: number): Tensor {
      if (left === depth) state = h;
      return h;
    },
    state: () => state!,
  };
}

/** What puts the kept state into the way up of the shallow one. */
export function withDeepState(deep: Tensor, depth: number) {
  return (h: Tensor, left: number): Tensor => (left === depth ? deep : h);
}
