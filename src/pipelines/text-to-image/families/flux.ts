import { UserError } from "../../../core/errors.ts";
import { div, reshape, type Tensor, transpose, values } from "../../../graph/index.ts";
import { flux } from "../../../models/index.ts";
import type { Family, FamilyKind } from "../family.ts";
import { clipEncoder, t5TextEncoder } from "../text-encoder.ts";
import { flowSampling } from "./flow-sampling.ts";
import { mustTake, statesOf, tokensOf } from "./transformer.ts";

/** Latent pixels along a side of the squares that are the transformer's tokens. */
const PATCH = 2;
/** The size of training in latent pixels, which no configuration says. */
const TRAINED = 128;

/**
 * FLUX.1: a transformer over 2×2 squares of latents, the states of T5 and the pooled text of CLIP. FLUX.1 dev is told its
 * guidance as a number; schnell, which is told none, draws in four steps.
 */
export const flux1: FamilyKind = {
  denoiser: "transformer",
  textEncoders: [
    { name: "text_encoder", classes: ["CLIPTextModel"] },
    { name: "text_encoder_2", classes: ["T5EncoderModel"] },
  ],
  build({ path, denoiser, textEncoders: [storedClip, storedT5] }) {
    const network = flux(denoiser.config);
    const { guidance_embeds: told, in_channels: inputs, axes_dims_rope: axes, ...c } = network.config;
    if (inputs % PATCH ** 2 !== 0 || axes.length !== 3 || c.patch_size !== 1) {
      const is = `${inputs} channels, ${axes.length} axes of positions and patches of ${c.patch_size}`;
      throw new UserError(`The transformer of ${path} has ${is}.`, {
        hint: "Of FLUX.1 it has a multiple of 4 channels, 3 axes and patches of 1.",
        field: "model",
      });
    }
    const clip = clipEncoder(storedClip!, { penultimate: false });
    const t5 = t5TextEncoder(storedT5!, { length: told ? 512 : 256 });
    mustTake(path, { what: "a pooled text", given: clip.width.pooled!, taken: c.pooled_projection_dim });
    mustTake(path, { what: "a text", given: t5.width.states, taken: c.joint_attention_dim });
    const family: Family = {
      ...{ channels: inputs / PATCH ** 2, patch: PATCH, trained: [TRAINED, TRAINED], strengthRounds: "up" },
      ...{ guidance: told ? "told" : "none", colours: undefined },
      fields: ["prompt2", "negativePrompt2", "textLength", "trueGuidance"],
      defaults: ({ image }) => ({
        steps: told ? 28 : 4,
        guidance: told ? (image === undefined ? 3.5 : 7) : 1,
        strength: 0.6,
      }),
      encoded: ([ofClip, ofT5]) => ({ states: ofT5!.states, pooled: ofClip!.pooled }),
      told: ({ guidance }) => ({ ...(told ? { guidance: [guidance] } : {}) }),
      predict({ latents, timestep, text, textEmbeds, guidance }) {
        const [n, , height, columns] = latents!.shape as [number, number, number, number];
        const given = {
          // The network counts time from 0 to 1; diffusers divides by 1000 however many timesteps were trained.
          timestep: div(timestep!, 1000),
          ...{ text: text!, pooled: textEmbeds! },
          imagePositions: positionsOf(height / PATCH, columns / PATCH),
          textPositions: values([text!.shape[1]!, 3], new Float32Array(text!.shape[1]! * 3)),
          guidance: guidance && reshape(guidance, [n]),
        };
        return unpacked(network(packed(latents!), given), height, columns);
      },
      sampling: (request, scheduler, latents) =>
        flowSampling(request, scheduler, { patches: tokensOf(latents, PATCH), toOneStep: true }),
      states: (n, latents) => statesOf(c, n * tokensOf(latents, PATCH)),
    };
    return { denoiser: { name: "transformer", network, weights: denoiser.weights }, textEncoders: [clip, t5], family };
  },
};

/** Squares of latents [n, c, h, w] as tokens, row by row: [n, h/2·w/2, c·2·2]. */
function packed(latents: Tensor): Tensor {
  const [n, c, h, w] = latents.shape as [number, number, number, number];
  const squares = reshape(latents, [n, c, h / PATCH, PATCH, w / PATCH, PATCH]);
  return reshape(transpose(squares, [0, 2, 4, 1, 3, 5]), [n, (h / PATCH) * (w / PATCH), c * PATCH ** 2]);
}

/** The inverse of `packed`. */
function unpacked(tokens: Tensor, h: number, w: number): Tensor {
  const [n, , channels] = tokens.shape as [number, number, number];
  const c = channels / PATCH ** 2;
  const squares = reshape(tokens, [n, h / PATCH, w / PATCH, c, PATCH, PATCH]);
  return reshape(transpose(squares, [0, 3, 1, 4, 2, 5]), [n, c, h, w]);
}

/** A token's position: nothing along the first axis, then its row and column. */
function positionsOf(rows: number, columns: number): Tensor {
  const data = Float32Array.from({ length: rows * columns * 3 }, (_, i) => {
    const token = Math.floor(i / 3);
    return [0, Math.floor(token / columns), token % columns][i % 3]!;
  });
  return values([rows * columns, 3], data);
}
