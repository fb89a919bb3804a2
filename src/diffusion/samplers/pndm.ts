import { combine } from "../combine.ts";
import type { Denoiser, Prediction } from "../denoiser.ts";
import type { Level } from "../prediction.ts";
import type { Samples } from "../process.ts";
import { adamsBashforth } from "./linear-multistep.ts";
import { type SamplerRun, type StartOptions, type Step, stateAfter } from "./sampler.ts";

/** A Runge–Kutta step of PNDM: four calls, each followed by a transfer from the same level. */
export interface PndmStart {
  readonly from: Level;
  /** Timesteps of the four calls: at the start, twice in the middle and at the end. */
  readonly calls: readonly [number, number, number, number];
  /** Where the transfer after each call goes: twice to the middle, twice to the end. */
  readonly targets: readonly [Level, Level, Level, Level];
}

export interface PndmOptions extends StartOptions {
  /** Runge–Kutta steps before the multistep ones; without any, the first multistep step is an improved Euler step. */
  readonly start?: readonly PndmStart[];
  /** The second transfer of that improved Euler step; the network is called at the timestep of its end. */
  readonly again?: Step;
  /** The improved Euler step is also that of a late start. */
  readonly restart?: boolean;
}

/**
 * Pseudo numerical methods (Liu et al. 2022, "Pseudo numerical methods for diffusion models on manifolds", Algorithm
 * 2): classical multistep formulas for the network's output, with DDIM's transfer (eq. 11) in the place of a step.
 * Without a start it is PLMS, the sampler of the first Stable Diffusion. The formulas (eq. 12–14) are those of even steps
 * in σ/α, in which the transfer is linear: order 4 on such a grid only, and 2 on the grids that are in use.
 *
 * Outputs are averaged as they are and read afterwards, as diffusers does: for v-prediction that is not the same as
 * averaging the noise.
 */
export async function* pndm(
  denoise: Denoiser,
  x: Samples,
  multistep: readonly Step[],
  { start = [], again = multistep[0], first = 0, restart = false }: PndmOptions = {},
): SamplerRun {
  const steps = start.length + multistep.length;
  let history: Float32Array[] = []; // outputs, newest first
  for (let i = first; i < start.length; i++) {
    const { from, calls, targets } = start[i]!;
    const to = targets[3];
    const said: Prediction[] = [];
    let at = x;
    for (let k = 0; k < 4; k++) {
      const prediction = await denoise(
        at,
        { ...(k === 0 ? from : targets[k - 1]!), timestep: calls[k]! },
        { step: i, steps },
      );
      said.push(prediction);
      if (k < 3) at = transferred(x, prediction.read(prediction.output, x, from).noise, from, targets[k]!);
    }
    const average = combine(
      [1 / 6, 1 / 3, 1 / 3, 1 / 6],
      said.map((prediction) => prediction.output),
    );
    history.unshift(said[0]!.output);
    x = transferred(x, said[0]!.read(average, x, from).noise, from, to);
    yield stateAfter(i, steps, from, to, x, said[0]!.x0);
  }
  for (let i = Math.max(first, start.length); i < steps; i++) {
    const { from, to } = multistep[i - start.length]!;
    const call = { step: i, steps };
    const prediction = await denoise(x, from, call);
    history = [prediction.output, ...history].slice(0, 4);
    const step = (output: Float32Array, along: Step) =>
      transferred(x, prediction.read(output, x, along.from).noise, along.from, along.to);
    if (history.length > 1 || (i > 0 && !restart) || steps === 1) {
      x = step(combine(adamsBashforth(history.length), history), { from, to });
    } else {
      // The output of the second call does not enter the history: the next step calls at that level again.
      const second = await denoise(step(prediction.output, { from, to }), again!.to, call);
      x = step(combine([1 / 2, 1 / 2], [prediction.output, second.output]), again!);
    }
    yield stateAfter(i, steps, from, to, x, prediction.x0);
  }
}

/** DDIM's transfer of x to another level along one estimate of the noise (Liu et al. 2022, eq. 11). */
function transferred(x: Samples, noise: Float32Array, from: Level, to: Level): Samples {
  const kept = to.alpha / from.alpha;
  return { ...x, data: combine([kept, to.sigma - kept * from.sigma], [x.data, noise]) };
}

/**
 * The improved PNDM of Crowson's "v-diffusion" code: the same weights on the noise, one call a step from the first,
 * on the path α = cos, σ = sin.
 */
export async function* improvedPndm(
  denoise: Denoiser,
  x: Samples,
  steps: readonly Step[],
  { first = 0 }: StartOptions = {},
): SamplerRun {
  let history: Float32Array[] = [];
  for (let i = first; i < steps.length; i++) {
    const { from, to } = steps[i]!;
    const prediction = await denoise(x, from, { step: i, steps: steps.length });
    history = [prediction.noise, ...history].slice(0, 4);
    const noise = combine(adamsBashforth(history.length), history);
    // At the very start α is 0 and nothing is known of x0; the guard makes it 0 there.
    const guarded = Math.max(from.alpha, 1e-8);
    const x0 = combine([1 / guarded, -from.sigma / guarded], [x.data, noise]);
    x = { ...x, data: combine([to.alpha, to.sigma], [x0, noise]) };
    yield stateAfter(i, steps.length, from, to, x, x0);
  }
}
