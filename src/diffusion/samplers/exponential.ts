import { halfLogSnr, type Level } from "../prediction.ts";

/**
 * What the exponential integrators (DPM-Solver, DEIS, UniPC, SA-Solver) share: with λ = log(α/σ) the equation of the
 * process is linear in x but for the prediction, and only the prediction's integral over λ is approximated
 * (Lu et al. 2022, DPM-Solver, prop. 3.1; Lu et al. 2022b, DPM-Solver++, prop. 4.1).
 */
export interface Integrand {
  /** Integrates x0 ("data prediction", the ++ forms) or ε ("noise prediction"). */
  readonly of: "x0" | "noise";
  /** Solves the stochastic equation instead of the ordinary one: fresh noise in each step. */
  readonly stochastic: boolean;
  /**
   * The third order as the published codes have it, and diffusers with them: the multistep form halves the second
   * derivative, which leaves an order of 2, and the stochastic forms subtract a 1/2 where the derivation adds it.
   * False, the default, is the derivation.
   */
  readonly asPublished?: boolean;
}

/** The weights of one step: of x, of the integral of the prediction's terms, and of fresh noise. */
export interface StepWeights {
  readonly x: number;
  /** Of the prediction held constant, of its first and of its second derivative over the step. */
  readonly constant: number;
  readonly linear: number;
  readonly quadratic: number;
  /** Half of `constant`: the first derivative's weight in the "midpoint" forms, equal to `linear` up to O(h³). */
  readonly midpoint: number;
  readonly noise: number;
}

/**
 * The exact weights over h = λ_to − λ_from of a prediction D0 + D1 (λ − λ_from)/h + D2 ((λ − λ_from)/h)²/2, where D1 and
 * D2 are differences scaled to the step (DPM-Solver++, eq. 9, A.4 and B; the φ functions of Hochbruck & Ostermann).
 */
export function stepWeights({ of, stochastic, asPublished = false }: Integrand, from: Level, to: Level): StepWeights {
  const h = halfLogSnr(to) - halfLogSnr(from);
  if (of === "x0") {
    const rate = stochastic ? 2 * h : h;
    const constant = -to.alpha * Math.expm1(-rate);
    const half = stochastic && asPublished ? -0.5 : 0.5;
    return {
      x: (to.sigma / from.sigma) * (stochastic ? Math.exp(-h) : 1),
      constant,
      linear: to.alpha * (Math.expm1(-rate) / rate + 1),
      quadratic: -to.alpha * ((Math.expm1(-rate) + rate) / (rate * rate) - half),
      midpoint: 0.5 * constant,
      noise: stochastic ? to.sigma * Math.sqrt(-Math.expm1(-2 * h)) : 0,
    };
  }
  const twice = stochastic ? 2 : 1;
  const constant = -twice * to.sigma * Math.expm1(h);
  return {
    x: to.alpha / from.alpha,
    constant,
    linear: -twice * to.sigma * (Math.expm1(h) / h - 1),
    quadratic: -twice * to.sigma * ((Math.expm1(h) - h) / (h * h) - 0.5),
    midpoint: 0.5 * constant,
    noise: stochastic ? to.sigma * Math.sqrt(Math.expm1(2 * h)) : 0,
  };
}
