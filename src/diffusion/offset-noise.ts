import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import type { Samples } from "./process.ts";

/**
 * Training noise with a constant added to each channel of each image, factor · N(0, 1): the network learns to change an
 * image's mean, which a few steps of plain noise hardly let it do (Guttenberg 2023, "Diffusion with offset noise"; 0.1
 * there). The constants are drawn as `torch.randn(n, channels, 1, 1)`, after the noise.
 *
 * @param noise [n, channels, …]; not changed
 * @throws UserError for a factor that is not a number
 */
export function offsetNoise(noise: Samples, factor: number, random: Random): Samples {
  if (!Number.isFinite(factor)) {
    throw new UserError(`Offset noise needs a number as its factor; ${factor} was given.`, {
      hint: "0.1 is usual, 0 is none.",
      field: "noiseOffset",
    });
  }
  if (factor === 0) return noise;
  const [n, channels] = noise.shape as readonly [number, number];
  const offsets = random.normal([n, channels, 1, 1]).data;
  const size = noise.data.length / offsets.length;
  return float32(
    noise.shape,
    noise.data.map((value, i) => value + factor * offsets[Math.floor(i / size)]!),
  );
}
