import { float32 } from "../../../core/host-tensor.ts";
import type { Samples } from "../../../diffusion/index.ts";
import { sd3 } from "../../../models/index.ts";
import { bothSides, type Family, type FamilyKind, type FamilyParts } from "../family.ts";
import type { StoredModel } from "../model.ts";
import { type EncodedText, oneAfterAnother, sideBySide } from "../text.ts";
import { clipEncoder, type TextEncoder, t5TextEncoder } from "../text-encoder.ts";
import { flowSampling } from "./flow-sampling.ts";
import { mustTake, statesOf, tokensOf } from "./transformer.ts";

/** Tokens that T5 sees of a prompt, and that stand for it where it is missing. */
const TEXT_LENGTH = 256;

/**
 * Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer that attends to picture and text together, two CLIP text
 * encoders and T5. The text is CLIP's states side by side, filled up with zeros to the width of T5's, and then T5's.
 */
export const stableDiffusion3: FamilyKind = {
  denoiser: "transformer",
  textEncoders: [
    { name: "text_encoder", classes: ["CLIPTextModelWithProjection"] },
    { name: "text_encoder_2", classes: ["CLIPTextModelWithProjection"] },
    { name: "text_encoder_3", classes: ["T5EncoderModel"], optional: true },
  ],
  build(model) {
    const { textEncoders: stored } = model;
    const clips = stored.slice(0, 2).map((encoder) => clipEncoder(encoder, { penultimate: true }));
    const t5 = stored[2] && t5TextEncoder(stored[2], { length: TEXT_LENGTH });
    return sd3With(model, t5 ? [...clips, t5] : clips, {
      fields: [
        ...(["clipSkip", "prompt2", "negativePrompt2"] as const),
        ...(t5 ? (["prompt3", "negativePrompt3", "textLength"] as const) : []),
      ],
      defaults: ({ image }) => ({ steps: image === undefined ? 28 : 50, guidance: 7, strength: 0.6 }),
      strengthRounds: "up",
      width: { states: t5?.width.states, pooled: clips.reduce((sum, { width }) => sum + width.pooled!, 0) },
      encoded(each, width) {
        const clip = widened(sideBySide(each.slice(0, 2).map(({ states }) => states)), width);
        const rest = each[2]?.states ?? float32([1, TEXT_LENGTH, width], new Float32Array(TEXT_LENGTH * width));
        return { states: oneAfterAnother([clip, rest]), pooled: pooledOf(each.slice(0, 2)) };
      },
    });
  },
};

interface Sd3Options extends Pick<Family, "fields" | "defaults" | "strengthRounds"> {
  /** How wide what the encoders give is; undefined where that is filled up. */
  readonly width: { readonly states: number | undefined; readonly pooled: number };
  /** The text as the transformer sees it, of the width that it takes. */
  encoded(each: readonly EncodedText[], width: number): EncodedText;
}

/** Stable Diffusion 3's transformer with text encoders. */
export function sd3With(
  { path, denoiser }: StoredModel,
  textEncoders: readonly TextEncoder[],
  { width, encoded, ...rest }: Sd3Options,
): FamilyParts {
  const network = sd3(denoiser.config);
  const { patch_size: patch, sample_size: trained, joint_attention_dim: taken, ...c } = network.config;
  mustTake(path, { what: "a pooled text", given: width.pooled, taken: c.pooled_projection_dim });
  if (width.states !== undefined) mustTake(path, { what: "a text", given: width.states, taken });
  const family: Family = {
    ...{ channels: c.in_channels, patch, trained: bothSides(trained), guidance: "contrast", colours: undefined },
    longest: c.pos_embed_max_size * patch,
    ...rest,
    encoded: (each) => encoded(each, taken),
    told: () => ({}),
    predict: ({ latents, timestep, text, textEmbeds }) => network(latents!, timestep!, text!, textEmbeds!),
    sampling: (request, scheduler, latents) => flowSampling(request, scheduler, { patches: tokensOf(latents, patch) }),
    states: (n, latents) => statesOf(c, n * tokensOf(latents, patch)),
  };
  return { denoiser: { name: "transformer", network, weights: denoiser.weights }, textEncoders, family };
}

/** States [1, tokens, w] with zeros behind: [1, tokens, width]. */
function widened({ shape, data }: Samples, width: number): Samples {
  const [, tokens, own] = shape as [number, number, number];
  const wide = new Float32Array(tokens * width);
  for (let t = 0; t < tokens; t++) wide.set(data.subarray(t * own, (t + 1) * own), t * width);
  return float32([1, tokens, width], wide);
}

/** The pooled texts of several encoders one after the other: [1, Σ width]. */
function pooledOf(each: readonly EncodedText[]): Samples {
  const all = each.flatMap(({ pooled }) => [...pooled!.data]);
  return float32([1, all.length], Float32Array.from(all));
}
