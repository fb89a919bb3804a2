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

/** The learning rate of step n, counted from 0. */
export function learningRate(n: number, { rate, kind, warmup, steps }: LearningRate): number {
  if (n < warmup) return (rate * (n + 1)) / warmup;
  if (kind === "constant") return rate;
  const progress = Math.min((n - warmup) / Math.max(1, steps - warmup), 1);
  return rate * 0.5 * (1 + Math.cos(Math.PI * progress));
}
