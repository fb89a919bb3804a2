import { add, mul, sub, type Tensor } from "../graph/index.ts";

/** An exponential moving average moved towards `value`: average − (1 − decay)·(average − value). */
export function ema(average: Tensor, value: Tensor, decay: Tensor): Tensor {
  return sub(average, mul(sub(average, value), sub(1, decay)));
}

/** The same, where the whole difference may be suppressed: `amount` 0 leaves the average as it is. */
export function towards(average: Tensor, value: Tensor, amount: Tensor): Tensor {
  return add(average, mul(sub(value, average), amount));
}

/**
 * The decay of update n, counted from 1. With warm-up it is (1 + k)/(10 + k) for k = n − 1 updates before, while that is
 * below `decay`, and 0 at the first update, as diffusers' EMAModel: the average then soon forgets the random start.
 */
export function emaDecay(n: number, decay: number, { warmup = true } = {}): number {
  if (!warmup) return decay;
  const before = n - 1;
  return before <= 0 ? 0 : Math.min(decay, (1 + before) / (10 + before));
}
