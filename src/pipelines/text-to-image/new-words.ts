import { UserError } from "../../core/errors.ts";
import type { HubOptions, TextTokenizer } from "../../io/index.ts";
import { embeddingIds, type TextEmbedding } from "../../models/index.ts";
import { openTextEmbedding } from "../adapters.ts";

// Words that a model's vocabulary does not have (Gal et al. 2022, "textual inversion").

/** A file of embeddings, and the word for it in prompts: a path, or `word=path`. */
export type EmbeddingChoice = string | { readonly path: string; readonly token?: string };

/** Reads embeddings. Throws a UserError for files that hold none. */
export async function openEmbeddings(
  given: readonly EmbeddingChoice[] = [],
  hub?: HubOptions,
): Promise<TextEmbedding[]> {
  const choices = given.map((choice) => (typeof choice === "string" ? wordAndPath(choice) : choice));
  return Promise.all(choices.map(({ path, token }) => openTextEmbedding(path, { token, hub })));
}

/** `word=path`, or a path alone; the = of a path follows a separator of folders. */
function wordAndPath(text: string): { readonly path: string; readonly token?: string } {
  const [, token, path] = /^([^=/\\]+)=(.+)$/.exec(text) ?? [];
  return token === undefined || path === undefined ? { path: text } : { path, token };
}

/**
 * The ids of each word's tokens, which follow those of the vocabulary.
 *
 * @param vocabulary rows of the text encoder's table
 * @throws UserError for words that there are already, and such as can stand in no prompt
 */
export function newWordIds(
  embeddings: readonly TextEmbedding[],
  tokenizer: TextTokenizer,
  vocabulary: number,
): Map<string, readonly number[]> {
  for (const { token } of embeddings) {
    const tokens = tokenizer.encode(token).length - 2;
    if (tokens > 1) continue;
    throw new UserError(
      tokens === 1
        ? `“${token}” is a word of the model's own vocabulary; it cannot stand for an embedding too.`
        : `“${token}” cannot stand for an embedding: there is nothing to read in it.`,
      { hint: `Choose another word: \`<my-${token.replace(/[\s<>]/g, "")}>=path\`.`, field: "embeddings" },
    );
  }
  return embeddingIds(embeddings, vocabulary);
}
