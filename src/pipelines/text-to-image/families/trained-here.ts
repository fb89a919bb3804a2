import { UserError } from "../../../core/errors.ts";
import type { FamilyKind } from "../family.ts";
import type { StoredTextEncoder } from "../model.ts";
import { clipEncoder, type TextEncoder, t5TextEncoder } from "../text-encoder.ts";
import { pixartWith } from "./pixart.ts";
import { sd3With } from "./stable-diffusion-3.ts";

/** The class that model_index.json gives what was trained here and no pipeline of diffusers draws with. */
export const TRAINED_PIPELINE = "AllegoryTextToImagePipeline";

const DEFAULTS = { steps: 50, guidance: 7.5, strength: 0.8 };

/** One text encoder of any kind, whose last states are taken; of T5 the padding is not seen. */
const TEXT_ENCODERS = [
  { name: "text_encoder", classes: ["CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"] },
];

function textEncoder(stored: StoredTextEncoder): TextEncoder {
  return stored.part.className === "T5EncoderModel"
    ? t5TextEncoder(stored, { length: stored.tokenizer.maxLength ?? 512, masked: true })
    : clipEncoder(stored, { penultimate: false });
}

/** Transformers that were trained here, by their class: with one text encoder, and latents or pixels of any size. */
export const TRAINED_HERE: Readonly<Record<string, FamilyKind>> = {
  PixArtTransformer2DModel: {
    denoiser: "transformer",
    textEncoders: TEXT_ENCODERS,
    build(stored) {
      const text = textEncoder(stored.textEncoders[0]!);
      const fields = stored.textEncoders[0]!.part.className === "T5EncoderModel" ? (["textLength"] as const) : [];
      return pixartWith(stored, text, { fields, defaults: DEFAULTS, colours: undefined });
    },
  },
  SD3Transformer2DModel: {
    denoiser: "transformer",
    textEncoders: TEXT_ENCODERS,
    build(stored) {
      const text = textEncoder(stored.textEncoders[0]!);
      const { states, pooled } = text.width;
      if (pooled === undefined) {
        throw new UserError(`The text encoder of ${stored.path} gives no pooled text, which its transformer takes.`, {
          hint: "A CLIP text encoder gives one.",
          field: "model",
        });
      }
      return sd3With(stored, [text], {
        ...{ fields: [], strengthRounds: "down", width: { states, pooled } },
        defaults: ({ mask }) => (mask === undefined ? DEFAULTS : { ...DEFAULTS, strength: 1 }),
        encoded: ([only]) => ({ states: only!.states, pooled: only!.pooled }),
      });
    },
  },
};
