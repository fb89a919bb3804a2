import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { add, cast, concat, reshape, type Tensor } from "../graph/index.ts";
import { activation } from "../nn/activation.ts";
import { embedding, linear } from "../nn/layers.ts";
import { textTimeEmbedding } from "../nn/text-time-embedding.ts";
import { gaussianFourierProjection, sinusoids, timestepEmbedding } from "../nn/timestep-embedding.ts";
import { count, flag, number, oneOf, only } from "./config.ts";

/** The fields that say what enters the embedding every block sees; shared by the U-Net and its control networks. */
export const conditioningFields = {
  flip_sin_to_cos: flag(true),
  freq_shift: number().default(0),
  act_fn: z.string().default("silu"),
  encoder_hid_dim: count().nullable().default(null),
  encoder_hid_dim_type: only([null, "text_proj"]),
  class_embed_type: oneOf(["timestep", "identity", "projection", "simple_projection"]).nullable().default(null),
  num_class_embeds: count().nullable().default(null),
  projection_class_embeddings_input_dim: count().nullable().default(null),
  addition_embed_type: only([null, "text", "text_time"]),
  addition_time_embed_dim: count().nullable().default(null),
  addition_embed_type_num_heads: count().default(64),
};

type Fields = z.output<z.ZodObject<typeof conditioningFields>>;

/** Those fields, and what only the U-Net itself can choose. */
export interface ConditioningConfig extends Fields {
  readonly block_out_channels: readonly number[];
  readonly cross_attention_dim: number | readonly number[];
  readonly time_embedding_type?: "positional" | "fourier";
  readonly time_embedding_dim?: number | null;
  readonly time_embedding_act_fn?: string | null;
  readonly timestep_post_act?: string | null;
  readonly time_cond_proj_dim?: number | null;
  readonly class_embeddings_concat?: boolean;
}

/** What a network can be given beside sample, timestep and text. */
export interface ConditioningInputs {
  /** Labels [n] as int64, or whatever the network's `class_embed_type` takes. */
  readonly classLabels?: Tensor;
  /** Embedding of the guidance scale [n, time_cond_proj_dim] of a guidance-distilled network. */
  readonly timestepCondition?: Tensor;
  /** Pooled text [n, width], for SDXL. */
  readonly textEmbeds?: Tensor;
  /** Sizes and crops [n, 6] as float32, for SDXL. */
  readonly timeIds?: Tensor;
}

/**
 * The embedding of timestep, class and further conditions, [n, width], and the projection of the text.
 *
 * @throws UserError for configurations that contradict themselves, and when called with inputs the network has no use for
 *   or without ones it needs
 */
export function conditioning(c: ConditioningConfig) {
  const first = c.block_out_channels[0]!;
  const fourier = c.time_embedding_type === "fourier";
  const width = c.time_embedding_dim ?? first * (fourier ? 2 : 4);
  if (fourier && width % 2 !== 0) {
    throw new UserError(`time_embedding_dim must be even with time_embedding_type "fourier"; it is ${width}.`, {
      field: "time_embedding_dim",
    });
  }
  const timeInputs = fourier ? width : first;
  const waves = { flipSinToCos: c.flip_sin_to_cos, frequencyShift: c.freq_shift };
  const pooledText = c.addition_embed_type === "text" ? pooledTextEmbedding(c, width) : undefined;
  const sizes =
    c.addition_embed_type === "text_time"
      ? {
          embedding: timestepEmbedding(
            needed(c, "projection_class_embeddings_input_dim", "addition_embed_type"),
            width,
          ),
          width: needed(c, "addition_time_embed_dim", "addition_embed_type"),
        }
      : undefined;
  const parts = {
    time_proj: fourier
      ? gaussianFourierProjection(width / 2, { scale: 1, logarithm: false, flipSinToCos: c.flip_sin_to_cos })
      : undefined,
    time_embedding: timestepEmbedding(timeInputs, width, {
      act: c.act_fn,
      postAct: c.timestep_post_act ?? undefined,
      conditionWidth: c.time_cond_proj_dim ?? undefined,
    }),
    encoder_hid_proj: textProjection(c),
    class_embedding: classEmbedding(c, timeInputs, width),
    add_embedding: pooledText ?? sizes?.embedding,
  };
  const finish = c.time_embedding_act_fn ? activation(c.time_embedding_act_fn) : (x: Tensor) => x;
  const projectTime = (t: Tensor) => parts.time_proj?.(t) ?? sinusoids(t, first, waves);
  const hasClasses = c.class_embed_type !== null || c.num_class_embeds !== null;
  if (c.class_embeddings_concat && !hasClasses) {
    throw new UserError(
      "class_embeddings_concat needs classes (num_class_embeds or class_embed_type); both are null.",
      {
        field: "class_embeddings_concat",
      },
    );
  }

  return {
    parts,
    /** Width of the embedding. */
    width: c.class_embeddings_concat ? 2 * width : width,
    /** The text [n, tokens, width] as the blocks take it. */
    context: (text: Tensor) => parts.encoder_hid_proj?.(text) ?? text,
    /** The embedding; `text` is the text as it was given, of which some networks add a vector. */
    embed(timestep: Tensor, text: Tensor, inputs: ConditioningInputs): Tensor {
      const { classLabels, timestepCondition, textEmbeds, timeIds } = inputs;
      expectInput("class labels", classLabels, hasClasses, "num_class_embeds or class_embed_type");
      if (timestepCondition)
        expectInput("timestepCondition", timestepCondition, !!c.time_cond_proj_dim, "time_cond_proj_dim");
      expectInput("textEmbeds", textEmbeds, !!sizes, "addition_embed_type");
      expectInput("timeIds", timeIds, !!sizes, "addition_embed_type");
      let time = parts.time_embedding(projectTime(timestep), timestepCondition);
      if (classLabels) {
        const labels = c.class_embed_type === "timestep" ? projectTime(cast(classLabels, "float32")) : classLabels;
        const embedded = parts.class_embedding ? parts.class_embedding(labels) : labels;
        time = c.class_embeddings_concat ? concat([time, embedded], 1) : add(time, embedded);
      }
      if (pooledText) time = add(time, pooledText(text));
      if (sizes && textEmbeds && timeIds) {
        const [n, ids] = timeIds.shape as [number, number];
        const times = reshape(sinusoids(reshape(timeIds, [n * ids]), sizes.width, waves), [n, ids * sizes.width]);
        time = add(time, sizes.embedding(concat([textEmbeds, times], 1)));
      }
      return finish(time);
    },
  };
}

function pooledTextEmbedding(c: ConditioningConfig, width: number) {
  const { addition_embed_type_num_heads: heads, encoder_hid_dim, cross_attention_dim } = c;
  const inputs = encoder_hid_dim ?? cross_attention_dim;
  if (typeof inputs !== "number" || inputs % heads !== 0) {
    throw new UserError(`A text of width ${inputs} cannot be pooled with ${heads} heads.`, {
      field: "addition_embed_type_num_heads",
    });
  }
  return textTimeEmbedding(inputs, width, heads);
}

function textProjection(c: ConditioningConfig) {
  if (c.encoder_hid_dim === null) {
    if (c.encoder_hid_dim_type !== null) needed(c, "encoder_hid_dim", "encoder_hid_dim_type");
    return undefined;
  }
  if (typeof c.cross_attention_dim !== "number") {
    throw new UserError("encoder_hid_dim needs one cross_attention_dim for all blocks.", {
      field: "cross_attention_dim",
    });
  }
  return linear(c.encoder_hid_dim, c.cross_attention_dim);
}

function classEmbedding(c: ConditioningConfig, timeInputs: number, width: number) {
  switch (c.class_embed_type) {
    case null:
      return c.num_class_embeds === null ? undefined : embedding(c.num_class_embeds, width);
    case "timestep":
      return timestepEmbedding(timeInputs, width, { act: c.act_fn });
    case "identity":
      return undefined;
    case "projection":
      return timestepEmbedding(needed(c, "projection_class_embeddings_input_dim", "class_embed_type"), width);
    case "simple_projection":
      return linear(needed(c, "projection_class_embeddings_input_dim", "class_embed_type"), width);
  }
}

/** A number that another field makes necessary. */
function needed(
  c: ConditioningConfig,
  field: "projection_class_embeddings_input_dim" | "addition_time_embed_dim" | "encoder_hid_dim",
  reason: "class_embed_type" | "addition_embed_type" | "encoder_hid_dim_type",
): number {
  const value = c[field];
  if (value === null) throw new UserError(`${reason} "${c[reason]}" needs ${field}; it is null.`, { field });
  return value;
}

function expectInput(what: string, given: Tensor | undefined, wanted: boolean, field: string): void {
  if ((given !== undefined) === wanted) return;
  throw new UserError(
    wanted
      ? `This network needs ${what} (see ${field} in its configuration); none were given.`
      : `This network has no use for ${what} (see ${field} in its configuration); some were given.`,
  );
}
