/** How the learning rate changes over a run. */
export interface LearningRate {
  /** The rate after the warm-up. */
  readonly rate: number;
  readonly kind: "constant" | "cosine";
  /** Steps over which the rate rises linearly from 0. */
  readonly warmup: number;
  /** Steps of the whole run; the cosine reaches 0 at its end. */
  readonly steps: number;
}

/**
 * The learning rate of step n, counted from 0.
 * @param spent share of the run's time that is over, where its time is limited: the cosine then ends with whichever of
 *   steps and time ends first
 */
export function learningRate(n: number, { rate, kind, warmup, steps }: LearningRate, spent = 0): number {
  if (n < warmup) return (rate * (n + 1)) / warmup;
  if (kind === "constant") return rate;
  const progress = Math.min(Math.max((n - warmup) / Math.max(1, steps - warmup), spent), 1);
  return rate * 0.5 * (1 + Math.cos(Math.PI * progress));
}
