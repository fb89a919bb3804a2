import { UserError } from "../core/errors.ts";
import { type Config, noEffect } from "./config.ts";

/**
 * Fields that transformers writes into every configuration and that say nothing about an encoder's result: bookkeeping,
 * precision of storage, generation, dropout (applied in training only).
 */
export const bookkeeping = Object.fromEntries(
  [
    "architectures",
    "dtype",
    "torch_dtype",
    "model_type",
    "transformers_version",
    "initializer_range",
    "attention_dropout",
    "dropout",
    "dropout_rate",
    "classifier_dropout",
    "bos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "is_encoder_decoder",
    "is_decoder",
    "n_positions",
    "num_decoder_layers",
    "output_past",
    "task_specific_params",
    "tie_word_embeddings",
    "scale_decoder_outputs",
    "use_cache",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "gradient_checkpointing",
    "add_cross_attention",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "use_bfloat16",
  ].map((name) => [name, noEffect(undefined).optional()]),
);

/**
 * Throws a UserError for the configuration of another class, by transformers' way of naming it.
 *
 * @param classes whose weights hold the encoder; the first is its own
 */
export function checkTextClass(
  { architectures, model_type: type }: Config,
  classes: readonly string[],
  modelType: string,
): void {
  const named = Array.isArray(architectures) ? architectures : [architectures ?? classes[0]];
  const other = named.find((name) => !classes.includes(name as string));
  if (other !== undefined) {
    throw new UserError(`This is the configuration of a ${String(other)}, not of a ${classes[0]}.`, {
      field: "architectures",
    });
  }
  if ((type ?? modelType) === modelType) return;
  throw new UserError(
    `This is the configuration of a model of type ${JSON.stringify(type)}; a ${classes[0]}'s is "${modelType}".`,
    { field: "model_type" },
  );
}
