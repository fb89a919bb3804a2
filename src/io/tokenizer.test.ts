import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { tokenizers } from "../../test/reference/cases/tokenizers.ts";
import { openTokenizer } from "./tokenizer.ts";

const reference = fileURLToPath(new URL("../../test/fixtures/reference", import.meta.url));
const clip = join(reference, "tokenizers", "clip-small");
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-"));
});
afterAll(() => rm(folder, { recursive: true }));

const cases = await tokenizers.discover(reference);

describe("a tokenizer", () => {
  test.each(cases.map((one) => [one.name, one] as const))("gives Python's ids: %s", async (_, one) => {
    const comparisons = await one.run();
    expect(comparisons.length).toBeGreaterThan(20);
    expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
  });

  test("pads with its padding token and says what fell off the end", async () => {
    const tokenizer = await openTokenizer(clip);
    const { ids, used, tokens, dropped } = tokenizer.encodePadded("a photo of a cat and a dog", 8);
    const all = tokenizer.encode("a photo of a cat and a dog");
    expect(ids).toEqual([...all.slice(0, 7), tokenizer.end]);
    expect([used, tokens]).toEqual([8, all.length]);
    expect(dropped).toBe(tokenizer.decode(all.slice(7)));
    expect(dropped).toMatch(/and a dog$/);
    const short = tokenizer.encodePadded("a cat", 8);
    expect([short.ids.length, short.used, short.dropped]).toEqual([8, short.tokens, ""]);
    expect(short.ids.slice(short.used)).toEqual(Array(8 - short.used).fill(tokenizer.padding));
    expect(tokenizer.decode(short.ids)).toBe("a cat");
    expect([tokenizer.maxLength, tokenizer.vocabularySize]).toEqual([77, 1000]);
  });

  test("takes the padding token of special_tokens_map.json before that of tokenizer_config.json", async () => {
    const path = join(folder, "bang");
    await cp(clip, path, { recursive: true });
    await rm(join(path, "tokenizer.json"));
    await writeFile(join(path, "special_tokens_map.json"), JSON.stringify({ pad_token: "!" }));
    const tokenizer = await openTokenizer(path);
    expect(tokenizer.padding).toBe(0);
    // Then it is a special token also inside a prompt.
    expect(tokenizer.encode("a cat!").at(-2)).toBe(0);
  });

  test("that is missing, of another kind or damaged is refused with what is needed", async () => {
    await expect(openTokenizer(join(folder, "nothing"))).rejects.toThrow(/There is no folder/);
    const path = join(folder, "t5");
    await cp(clip, path, { recursive: true });
    await rm(join(path, "tokenizer.json"));
    await rm(join(path, "merges.txt"));
    await expect(openTokenizer(path)).rejects.toThrow(/no tokenizer.json, nor vocab.json and merges.txt/);
    await writeFile(join(path, "tokenizer.json"), "{}");
    await expect(openTokenizer(path)).rejects.toThrow(/cannot be used/);
  });
});
