import { UserError } from "../core/errors.ts";
import { describeShape, type HostTensor } from "../core/host-tensor.ts";
import { cast, concat, constant, parameterLeaf } from "../graph/index.ts";
import { namedParameters } from "../nn/module.ts";
import type { Bind, Weighted } from "./weights.ts";

/** Learned embeddings for a word of one's own (Gal et al. 2022, "textual inversion"): one or more rows per text encoder. */
export interface TextEmbedding {
  /** The word that stands for it in prompts. */
  readonly token: string;
  /** [vectors, width] by the text encoder it is for: `text_encoder`, for XL also `text_encoder_2`. */
  readonly rows: ReadonlyMap<string, HostTensor>;
  /** How many vectors, that is tokens, the word becomes. */
  readonly vectors: number;
}

/** What the files call the rows for each text encoder. */
const PARTS: Readonly<Record<string, string>> = {
  clip_l: "text_encoder",
  clip_g: "text_encoder_2",
  text_encoders_0: "text_encoder",
  text_encoders_1: "text_encoder_2",
};

const TABLE = "text_model.embeddings.token_embedding.weight";

/**
 * Reads the tensors of a textual-inversion file: a single one under the word itself (diffusers), `emb_params`,
 * `string_to_param.*` or `<word>`; or one for each text encoder of XL (`clip_l`, `clip_g`).
 *
 * @param options.token the word; default what the file calls it, or else the file's name
 * @throws UserError for other files
 */
export function readTextEmbedding(
  tensors: ReadonlyMap<string, HostTensor>,
  { name, token }: { readonly name: string; readonly token?: string },
): TextEmbedding {
  const rows = new Map<string, HostTensor>();
  const names = [...tensors.keys()];
  for (const [key, tensor] of tensors) {
    const part = PARTS[key] ?? (names.length === 1 ? "text_encoder" : undefined);
    const flat = tensor.shape.length === 1;
    if (!part || !(flat || tensor.shape.length === 2) || !/^(float|bfloat)/.test(tensor.dtype)) {
      throw new UserError(
        `${name} is no textual-inversion embedding: it holds ${names
          .slice(0, 4)
          .map((each) => `${each} ${describeShape(tensors.get(each)!.shape)}`)
          .join(", ")}.`,
        { hint: "One holds a single tensor [vectors, width], or clip_l and clip_g for XL.", field: "embeddings" },
      );
    }
    rows.set(part, flat ? { ...tensor, shape: [1, tensor.shape[0]!] } : tensor);
  }
  const counts = [...rows.values()].map(({ shape }) => shape[0]!);
  const vectors = counts[0] ?? 0;
  if (vectors === 0 || counts.some((count) => count !== vectors)) {
    throw new UserError(`${name} has ${counts.join(" and ") || "no"} vectors; each text encoder needs as many.`, {
      field: "embeddings",
    });
  }
  const unnamed = names.length > 1 || names[0] === "emb_params" || /^(string_to_param|\*)/.test(names[0]!);
  return { token: token ?? (unnamed || PARTS[names[0]!] ? name : names[0]!), rows, vectors };
}

/** Where the words of embeddings stand in the token tables: the ids of each one's vectors, following the vocabulary. */
export function embeddingIds(embeddings: readonly TextEmbedding[], vocabulary: number): Map<string, readonly number[]> {
  const ids = new Map<string, readonly number[]>();
  let next = vocabulary;
  for (const { token, vectors } of embeddings) {
    if (ids.has(token)) {
      throw new UserError(`Two embeddings are for the word ${token}.`, {
        hint: "Give one of them another: `word=path`.",
        field: "embeddings",
      });
    }
    ids.set(
      token,
      Array.from({ length: vectors }, () => next++),
    );
  }
  return ids;
}

/** {@link textEmbeddingBinding} of a binding. */
export function bindTextEmbeddings(
  network: Weighted,
  bind: Bind,
  part: string,
  embeddings: readonly TextEmbedding[],
): Bind {
  return textEmbeddingBinding(network, part, embeddings)(bind);
}

/**
 * Turns bindings into those under which a text encoder's token table has the embeddings' rows after its own, in their order;
 * their ids are those of {@link embeddingIds}. A configuration with `eos_token_id` 2 finds the end of a text by its highest
 * id: its pooled state is then not to be used with such words.
 *
 * @param part the text encoder's name in its pipeline
 * @throws UserError for rows of another width, and embeddings without rows for this encoder
 */
export function textEmbeddingBinding(
  network: Weighted,
  part: string,
  embeddings: readonly TextEmbedding[],
): (bind: Bind) => Bind {
  const table = namedParameters(network).get(TABLE);
  if (!table) throw new UserError(`The ${part} has no table of tokens (${TABLE}).`, { field: "embeddings" });
  const width = table.shape[1]!;
  const added = embeddings.map(({ token, rows }) => {
    const own = rows.get(part);
    if (own?.shape[1] === width) return cast(constant(own), "float32");
    throw new UserError(
      own
        ? `The embedding of ${token} is ${own.shape[1]} wide, the ${part} ${width}.`
        : `The embedding of ${token} has nothing for the ${part}; it has rows for ${[...rows.keys()].join(", ")}.`,
      { hint: "It was made for another model.", field: "embeddings" },
    );
  });
  if (added.length === 0) return (bind) => bind;
  const own = parameterLeaf(table.shape);
  const longer = concat([own, ...added], 0);
  return (bind) => (leaf) => {
    if (leaf === own) return bind(table.tensor);
    return leaf === table.tensor ? { kind: "tensor", tensor: longer } : bind(leaf);
  };
}
