import { mkdtemp, readdir, readFile, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { openTokenizer } from "../../../src/io/tokenizer.ts";
import { type CaseKind, type Comparison, compare } from "../case.ts";

interface Prompts {
  readonly max_length: number;
  readonly prompts: readonly {
    readonly prompt: string;
    readonly ids: readonly number[];
    readonly padded_truncated: readonly number[];
  }[];
}

/** Every prompt of every tokenizer, exactly: from its tokenizer.json, and from its vocab.json and merges.txt alone. */
export const tokenizers: CaseKind = {
  kind: "tokenizers",
  async discover(folder) {
    const root = join(folder, "tokenizers");
    const files = (await readdir(root).catch(() => [])).filter((name) => name.endsWith("-prompts.json")).sort();
    return files.map((file) => ({
      name: `tokenizers/${file.slice(0, -"-prompts.json".length)}`,
      run: () => runPrompts(root, file),
    }));
  },
};

async function runPrompts(root: string, file: string): Promise<Comparison[]> {
  const path = resolve(root, file.slice(0, -"-prompts.json".length));
  const { max_length, prompts } = JSON.parse(await readFile(join(root, file), "utf8")) as Prompts;
  const older = await mkdtemp(join(tmpdir(), "allegory-tokenizer-"));
  const result: Comparison[] = [];
  try {
    for (const name of await readdir(path)) {
      if (name !== "tokenizer.json") await symlink(join(path, name), join(older, name));
    }
    for (const [from, folder] of [
      ["tokenizer.json", path],
      ["merges.txt", older],
    ] as const) {
      const tokenizer = await openTokenizer(folder);
      for (const { prompt, ids, padded_truncated } of prompts) {
        const what = `${JSON.stringify(prompt.slice(0, 40))} by ${from}`;
        result.push(compare(what, tokenizer.encode(prompt), ids, {}));
        const padded = tokenizer.encodePadded(prompt, max_length).ids;
        result.push(compare(`${what}, padded`, padded, padded_truncated, {}));
      }
    }
  } finally {
    await rm(older, { recursive: true });
  }
  return result;
}
