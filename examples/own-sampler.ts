import type { Denoiser, Level, SamplerRun, Samples } from "../src/diffusion/index.ts";

/** Goes along straight lines to an image that is extrapolated from the last two estimates. */
export async function* extrapolated(denoise: Denoiser, x: Samples, levels: readonly Level[]): SamplerRun {
  const steps = levels.length - 1;
  let before: Float32Array | undefined;
  for (const [i, from] of levels.slice(0, -1).entries()) {
    const to = levels[i + 1]!;
    const { x0 } = await denoise(x, from, { step: i, steps });
    const image = x0.map((value, k) => value + (value - (before?.[k] ?? value)) / 2);
    const kept = to.sigma / from.sigma;
    x = { ...x, data: x.data.map((value, k) => kept * value + (to.alpha - kept * from.alpha) * image[k]!) };
    before = x0;
    yield { step: i + 1, steps, timestep: from.timestep, sigma: from.sigma, level: to, x, x0: { ...x, data: x0 } };
  }
}
