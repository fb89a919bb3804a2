import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { float32 } from "../core/host-tensor.ts";
import { writeSafetensors } from "../io/index.ts";
import { group, parameter } from "../nn/module.ts";
import type { Adaptation } from "./adaptation.ts";
import type { FineTuneMethod } from "./fine-tune-recipe.ts";
import type { BaseModel } from "./pretrained-model.ts";

const TABLE = "text_encoder.text_model.embeddings.token_embedding.weight";

/**
 * A new word learns what it means and nothing else changes (Gal et al. 2022, "textual inversion", eq. 2): its embeddings
 * are the only parameters, starting as those of a word that there is. Written as diffusers writes and reads them.
 *
 * @throws UserError for a word that the vocabulary has, and one to start from that it does not have as a single token
 */
export async function newWord(base: BaseModel, method: FineTuneMethod<"textual-inversion">): Promise<Adaptation> {
  const { word, from, vectors } = method;
  const { tokenizer, textEncoder } = base;
  const tokensOf = (text: string) => tokenizer.encode(text).slice(1, -1);
  if (/\s/.test(word) || tokensOf(word).length < 2) {
    throw new UserError(
      `“${word}” cannot be a new word: ${/\s/.test(word) ? "it has spaces" : "the vocabulary has it"}.`,
      {
        hint: `Choose one that there is not, such as <${word.replace(/[\s<>]/g, "")}>.`,
        field: "method.word",
      },
    );
  }
  const tokens = tokensOf(from);
  if (tokens.length !== 1) {
    const names = tokens.map((id) => tokenizer.tokenOf(id)).join(" and ");
    throw new UserError(`“${from}” is not one token but ${tokens.length === 0 ? "none" : names}.`, {
      hint: "Choose a common word, such as that for the kind of thing.",
      field: "method.from",
    });
  }
  const width = textEncoder.config.hidden_size;
  const table = (await base.read([TABLE])).get(TABLE)!;
  const row = table.data.slice(tokens[0]! * width, (tokens[0]! + 1) * width);
  const start = float32(
    [vectors, width],
    Float32Array.from({ length: vectors * width }, (_, i) => row[i % width]!),
  );
  const rows = parameter([vectors, width], { kind: "values", values: () => start.data });
  return {
    network: group({ word: rows }),
    learnsText: true,
    own: { word, rows: rows.tensor },
    apply: (build) => build(),
    start: () => new Map([["word", start]]),
    write: (folder, weights) =>
      writeSafetensors(join(folder, "learned_embeds.safetensors"), new Map([[word, weights.get("word")!]]), {
        format: "pt",
      }),
  };
}
