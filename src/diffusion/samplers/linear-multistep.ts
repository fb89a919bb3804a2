import { combine } from "../combine.ts";
import { type Denoiser, noiseBeside } from "../denoiser.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { mustHaveOrder, type SamplerRun, type StartOptions, stateAfter } from "./sampler.ts";

export interface LinearMultistepOptions extends StartOptions {
  /** From 1 (Euler) to 8: how many slopes are used. The rule that integrates them is exact to there. */
  readonly order?: number;
  /**
   * A run that starts late weights its slopes as though the earlier levels had been called too, as diffusers does.
   * Otherwise the order grows from 1.
   */
  readonly assumesHistory?: boolean;
}

/** A polynomial through 8 slopes is of degree 7, which the quadrature below integrates exactly. */
export const MAX_LMS_ORDER = 8;

/**
 * The linear multistep method (Adams–Bashforth; Hairer, Nørsett & Wanner, "Solving ordinary differential equations I",
 * section III.1, eq. 1.5 on an uneven grid) for dx/dσ = ε, as Crowson's code has it ("LMS"): the polynomial through the
 * last slopes, integrated over the step. One call a step; variance-exploding coordinates only.
 */
export async function* linearMultistep(
  denoise: Denoiser,
  x: Samples,
  levels: readonly Level[],
  { order = 4, assumesHistory = false, first = 0 }: LinearMultistepOptions = {},
): SamplerRun {
  mustHaveOrder("The linear multistep method", order, MAX_LMS_ORDER);
  const steps = levels.length - 1;
  const slopes: Float32Array[] = []; // newest first
  for (let i = first; i < steps; i++) {
    const from = levels[i]!;
    const to = levels[i + 1]!;
    const { x0 } = await denoise(x, from, { step: i, steps });
    slopes.unshift(noiseBeside(x0, x.data, from));
    slopes.length = Math.min(slopes.length, order);
    const used = assumesHistory ? Math.min(order, i + 1) : slopes.length;
    const nodes = Array.from({ length: used }, (_, k) => levels[i - k]!.sigma);
    const weights = slopes.map((_, k) => integratedLagrange(nodes, k, from.sigma, to.sigma));
    x = { ...x, data: combine([1, ...weights], [x.data, ...slopes]) };
    yield stateAfter(i, steps, from, to, x, x0);
  }
}

// Gauss–Legendre nodes and weights of 4 points on [−1, 1] (Abramowitz & Stegun, table 25.4): exact to degree 7.
const GAUSS = [
  [-0.861136311594053, 0.347854845137454],
  [-0.339981043584856, 0.652145154862546],
  [0.339981043584856, 0.652145154862546],
  [0.861136311594053, 0.347854845137454],
] as const;

/** ∫ from a to b of the Lagrange polynomial that is 1 at node k and 0 at the others. */
function integratedLagrange(nodes: readonly number[], k: number, a: number, b: number): number {
  let total = 0;
  for (const [point, weight] of GAUSS) {
    const at = (a + b) / 2 + ((b - a) / 2) * point;
    let value = 1;
    nodes.forEach((node, other) => {
      if (other !== k) value *= (at - node) / (nodes[k]! - node);
    });
    total += weight * value;
  }
  return (total * (b - a)) / 2;
}

/** Adams–Bashforth weights of even steps, newest slope first (Liu et al. 2022, PNDM, eq. 12–14). */
export function adamsBashforth(slopes: number): readonly number[] {
  switch (slopes) {
    case 1:
      return [1];
    case 2:
      return [3 / 2, -1 / 2];
    case 3:
      return [23 / 12, -16 / 12, 5 / 12];
    default:
      return [55 / 24, -59 / 24, 37 / 24, -9 / 24];
  }
}
