import { Option } from "commander";
import { collect } from "./schema-options.ts";

/** `--embeddings`: words that were learned apart from the model. */
export function embeddingsOption(): Option {
  return new Option(
    "--embeddings <word=path>",
    "textual-inversion file, folder or org/name, with the word that stands for it (default: that of the file); may be given several times",
  ).argParser(collect);
}
