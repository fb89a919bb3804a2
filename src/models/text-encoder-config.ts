import { noEffect } from "./config.ts";

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
  ].map((name) => [name, noEffect(undefined).optional()]),
);
