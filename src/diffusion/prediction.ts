import { UserError } from "../core/errors.ts";

/**
 * A point of the path from image to noise: x = alpha · x0 + sigma · ε with standard normal ε.
 *
 * The three coordinate systems in use are `alpha² + sigma² = 1` (variance preserving: DDPM, Stable Diffusion),
 * `alpha = 1` (variance exploding: Karras et al. 2022) and `alpha + sigma = 1` (flow matching).
 */
export interface Level {
  /** What the network is told, and the number of the training timestep where there is one. */
  readonly timestep: number;
  readonly alpha: number;
  readonly sigma: number;
}

/**
 * What a network's output means:
 * - `noise`: ε (Ho et al. 2020, section 3.2)
 * - `x0`: the image
 * - `v`: the velocity α ε − σ x0 of the variance-preserving path (Salimans & Ho 2022, appendix D)
 * - `flow`: the velocity ε − x0 of the straight path (Lipman et al. 2023; Liu et al. 2023)
 * - `edm`: Karras et al.'s F, from which x0 = c_skip x + c_out F (Karras et al. 2022, eq. 7 and table 1)
 */
export type PredictionKind = "noise" | "x0" | "v" | "flow" | EdmPrediction;

export interface EdmPrediction {
  readonly edm: {
    /** The standard deviation of the training images, 0.5 for images in [−1, 1]. */
    readonly sigmaData: number;
    /** −1 where the network was trained with c_out negated, as diffusers' "v_prediction" of its EDM schedulers. */
    readonly sign?: 1 | -1;
  };
}

/** The weights of x and of the network's output in x0 and in ε: every kind is linear in both. */
export interface Reading {
  readonly x0: readonly [ofX: number, ofOutput: number];
  readonly noise: readonly [ofX: number, ofOutput: number];
}

/** How to read a prediction at a level. Solving x = α x0 + σ ε together with the definition of the kind gives each. */
export function reading(kind: PredictionKind, { alpha, sigma }: Level): Reading {
  switch (kind) {
    case "noise":
      return { x0: [1 / alpha, -sigma / alpha], noise: [0, 1] };
    case "x0":
      return { x0: [0, 1], noise: [1 / sigma, -alpha / sigma] };
    case "v": {
      // v belongs to the variance-preserving coordinates, x / √(α² + σ²).
      const square = alpha * alpha + sigma * sigma;
      const c = Math.sqrt(square);
      return { x0: [alpha / square, -sigma / c], noise: [sigma / square, alpha / c] };
    }
    case "flow": {
      const sum = alpha + sigma;
      return { x0: [1 / sum, -sigma / sum], noise: [1 / sum, alpha / sum] };
    }
    default: {
      // F belongs to the exploding coordinates: x / α at σ / α.
      const { sigmaData, sign = 1 } = kind.edm;
      const ratio = sigma / alpha;
      const total = ratio * ratio + sigmaData * sigmaData;
      const skip = (sigmaData * sigmaData) / total;
      const out = (sign * ratio * sigmaData) / Math.sqrt(total);
      return { x0: [skip / alpha, out], noise: [(1 - skip) / sigma, -out / ratio] };
    }
  }
}

/** The weights of x0 and ε in what a network of this kind is trained to say: the inverse of `reading`. */
export function target(kind: PredictionKind, level: Level): readonly [ofX0: number, ofNoise: number] {
  const { alpha, sigma } = level;
  switch (kind) {
    case "noise":
      return [0, 1];
    case "x0":
      return [1, 0];
    case "v": {
      const c = Math.sqrt(alpha * alpha + sigma * sigma);
      return [-sigma / c, alpha / c];
    }
    case "flow":
      return [-1, 1];
    default: {
      const [skip, out] = reading(kind, level).x0;
      return [(1 - skip * alpha) / out, (-skip * sigma) / out];
    }
  }
}

/**
 * The weights with which a prediction of one kind becomes one of another, given x: `to = ofX · x + ofOutput · output`.
 */
export function conversion(
  from: PredictionKind,
  to: PredictionKind,
  level: Level,
): readonly [ofX: number, ofOutput: number] {
  const read = reading(from, level);
  const [ofX0, ofNoise] = target(to, level);
  return [ofX0 * read.x0[0] + ofNoise * read.noise[0], ofX0 * read.x0[1] + ofNoise * read.noise[1]];
}

/** The level of a variance-preserving path with the given ᾱ, in float32 as torch computes the square roots. */
export function levelOfAlphaBar(alphaBar: number, timestep: number): Level {
  return {
    timestep,
    alpha: Math.fround(Math.sqrt(alphaBar)),
    sigma: Math.fround(Math.sqrt(Math.fround(1 - alphaBar))),
  };
}

/** The level with σ noise per unit of signal, in the coordinates of the given path. */
export function levelOfSigma(path: "preserving" | "exploding" | "flow", sigma: number, timestep: number): Level {
  switch (path) {
    case "preserving": {
      const alpha = 1 / Math.sqrt(sigma * sigma + 1);
      return { timestep, alpha, sigma: sigma * alpha };
    }
    case "exploding":
      return { timestep, alpha: 1, sigma };
    case "flow":
      if (!(sigma >= 0 && sigma <= 1)) {
        throw new UserError(`σ = ${sigma} is not on a flow-matching path; there σ runs from 1 (noise) to 0 (image).`);
      }
      return { timestep, alpha: 1 - sigma, sigma };
  }
}

/** λ = log(α/σ), half the log signal-to-noise ratio (Lu et al. 2022, DPM-Solver, section 2); +∞ without noise. */
export function halfLogSnr({ alpha, sigma }: Level): number {
  return Math.log(alpha) - Math.log(sigma);
}
