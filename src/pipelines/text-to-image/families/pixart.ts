import { UserError } from "../../../core/errors.ts";
import { slice } from "../../../graph/index.ts";
import { pixart as transformer } from "../../../models/index.ts";
import type { Defaults, Family, FamilyKind, FamilyParts } from "../family.ts";
import type { StoredModel } from "../model.ts";
import { COLOURS } from "../preview.ts";
import { type TextEncoder, t5TextEncoder } from "../text-encoder.ts";
import { mustTake, statesOf, tokensOf } from "./transformer.ts";

/** Tokens that T5 sees of a prompt. */
const TEXT_LENGTH = { alpha: 120, sigma: 300 };

/**
 * PixArt-α and PixArt-Σ (Chen et al. 2024): a transformer that attends to T5's states, of which neither sees the padding.
 * Prompts are read in lower case.
 */
export const pixart: FamilyKind = {
  denoiser: "transformer",
  textEncoders: [{ name: "text_encoder", classes: ["T5EncoderModel"] }],
  build(stored) {
    const sigma = stored.className.startsWith("PixArtSigma");
    const t5 = t5TextEncoder(stored.textEncoders[0]!, {
      length: sigma ? TEXT_LENGTH.sigma : TEXT_LENGTH.alpha,
      masked: true,
      prepare: (text) => text.toLowerCase().trim(),
    });
    return pixartWith(stored, t5, {
      fields: ["textLength"],
      defaults: { steps: 20, guidance: 4.5, strength: 0.8 },
      // The autoencoders of Stable Diffusion and of SDXL.
      colours: sigma ? COLOURS.xl : COLOURS.stable,
    });
  },
};

/** PixArt's transformer with a text encoder. */
export function pixartWith(
  { path, denoiser }: StoredModel,
  encoder: TextEncoder,
  { fields, defaults, colours }: Pick<Family, "fields" | "colours"> & { readonly defaults: Defaults },
): FamilyParts {
  const network = transformer(denoiser.config);
  const { in_channels: channels, out_channels, patch_size: patch, sample_size: trained, ...c } = network.config;
  const outputs = out_channels ?? channels;
  if (outputs !== channels && outputs !== 2 * channels) {
    throw new UserError(`The transformer of ${path} takes ${channels} channels and gives ${outputs}.`, {
      hint: `It gives ${channels}, or with the variance that it learned ${2 * channels}.`,
      field: "model",
    });
  }
  const taken = c.caption_channels ?? c.cross_attention_dim;
  mustTake(path, { what: "a text", given: encoder.width.states, taken });
  const family: Family = {
    ...{ channels, patch, trained: [trained, trained], guidance: "contrast", strengthRounds: "down", fields, colours },
    defaults: ({ mask }) => (mask === undefined ? defaults : { ...defaults, strength: 1 }),
    encoded: ([text]) => ({ states: text!.states, mask: text!.mask }),
    told: (_, { size: [height, width] }) => ({
      ...(network.sized ? { resolution: [height, width], aspectRatio: [height / width] } : {}),
    }),
    predict({ latents, timestep, text, textMask, resolution, aspectRatio }) {
      const output = network(latents!, timestep!, text!, { contextMask: textMask, resolution, aspectRatio });
      // The learned variance is not used: diffusers' pipeline leaves it out, whatever the sampler.
      return slice(output, 1, 0, channels);
    },
    states: (n, latents) => statesOf(c, n * tokensOf(latents, patch)),
  };
  return { denoiser: { name: "transformer", network, weights: denoiser.weights }, textEncoders: [encoder], family };
}
