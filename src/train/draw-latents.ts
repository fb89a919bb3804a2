import { cutBatch, joinBatch } from "../core/batch-parts.ts";
import { float32, type HostTensor, type Shape } from "../core/host-tensor.ts";
import { finished, guide, noiseFrom, type SamplingPlan, seededPerImage } from "../diffusion/index.ts";
import type { Session } from "../runtime/index.ts";

/** What latents are drawn with, and from which noise. */
export interface LatentDrawing {
  readonly plan: SamplingPlan;
  /** [n, channels, height, width] */
  readonly shape: Shape;
  /** Feeds of the words of 2n pictures: of the n to be drawn, then of no words n times. */
  readonly words: Readonly<Record<string, HostTensor>>;
  /** Weight of the words (Ho & Salimans 2022). */
  readonly guidance: number;
  /** Picture i is drawn from seed + i. */
  readonly seed: number;
}

/**
 * Draws latents with a session whose graph has inputs `x` [2n, …] and `timesteps` [2n] beside the words, and the output
 * `output`: both halves of guidance in one batch.
 */
export async function drawLatents(
  session: Session,
  { plan, shape, words, guidance, seed }: LatentDrawing,
): Promise<HostTensor<"float32">> {
  const count = shape[0]!;
  const predict = async (samples: HostTensor<"float32">, timestep: number) => {
    const timesteps = float32([2 * count], new Float32Array(2 * count).fill(timestep));
    const { output } = await session.run({ x: joinBatch([samples, samples]), timesteps, ...words });
    const [conditional, unconditional] = cutBatch(output as HostTensor<"float32">, 2);
    return guide(conditional!, unconditional!, { scale: guidance });
  };
  const noise = noiseFrom(seededPerImage(seed, count));
  const drawn = noise(shape);
  const start = float32(
    shape,
    drawn.data.map((value) => value * plan.initNoiseSigma),
  );
  return finished(plan.sample(predict, start, { noise }), start);
}
