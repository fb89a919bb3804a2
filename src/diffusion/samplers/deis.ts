import { combine } from "../combine.ts";
import { type Denoiser, noiseBeside } from "../denoiser.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { lagrange } from "./lagrange.ts";
import { mustHaveOrder, type SamplerRun, type StartOptions, stateAfter } from "./sampler.ts";

export interface DeisOptions extends StartOptions {
  /** 1 (DDIM), 2 or 3: through how many predictions the polynomial goes. */
  readonly order?: number;
  /** The order of step i at most, for lowering it in the last steps. */
  readonly orderAt?: (step: number, steps: number) => number;
}

/**
 * DEIS (Zhang & Chen 2023, "Fast sampling of diffusion models with exponential integrator", the log ρ form): the noise
 * as a polynomial in log ρ, ρ = σ/α, through the last predictions, integrated over ρ (eq. 15). One call a step.
 */
export async function* deis(
  denoise: Denoiser,
  x: Samples,
  levels: readonly Level[],
  { order = 2, orderAt = () => order, first = 0 }: DeisOptions = {},
): SamplerRun {
  mustHaveOrder("DEIS", order, 3);
  const steps = levels.length - 1;
  let history: Float32Array[] = []; // newest first
  for (let i = first; i < steps; i++) {
    const from = levels[i]!;
    const to = levels[i + 1]!;
    const { x0 } = await denoise(x, from, { step: i, steps });
    history = [noiseBeside(x0, x.data, from), ...history].slice(0, order);
    const usable = Math.min(orderAt(i, steps), history.length);
    const nodes = Array.from({ length: usable }, (_, k) => Math.log(levels[i - k]!.sigma / levels[i - k]!.alpha));
    const a = from.sigma / from.alpha;
    const b = to.sigma / to.alpha;
    const weights = nodes.map((_, k) => to.alpha * integralOverRho(nodes, k, a, b));
    x = { ...x, data: combine([to.alpha / from.alpha, ...weights], [x.data, ...history.slice(0, usable)]) };
    yield stateAfter(i, steps, from, to, x, x0);
  }
}

/** ∫ from a to b dρ of the Lagrange polynomial in log ρ that is 1 at node k (of log ρ) and 0 at the others. */
function integralOverRho(nodes: readonly number[], k: number, a: number, b: number): number {
  const polynomial = lagrange(nodes, k);
  return antiderivative(polynomial, b) - antiderivative(polynomial, a);
}

/** ∫ (log ρ)ⁿ dρ = ρ (log ρ)ⁿ − n ∫ (log ρ)ⁿ⁻¹ dρ, summed over a polynomial; 0 at ρ = 0. */
function antiderivative(polynomial: readonly number[], rho: number): number {
  if (rho === 0) return 0;
  const log = Math.log(rho);
  let integral = rho;
  let total = polynomial[0]! * integral;
  for (let n = 1; n < polynomial.length; n++) {
    integral = rho * log ** n - n * integral;
    total += polynomial[n]! * integral;
  }
  return total;
}
