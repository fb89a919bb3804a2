import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { decodeImage, readJsonObject } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
let pipe: TextToImagePipeline;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-tokens-"));
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(async () => {
  await pipe.close();
  await rm(folder, { recursive: true });
});

async function command(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}

describe("tokens of a prompt", () => {
  test("stand in the places that the network sees them at", () => {
    const [table] = pipe.tokens({ prompt: "a red cat" });
    expect(table).toMatchObject({ encoder: "text_encoder", prompt: "a red cat", room: 75, dropped: "" });
    expect(table!.tokens).toHaveLength(77);
    expect(table!.tokens.map(({ id }) => id)).toEqual(pipe.text.tokens(["a red cat", "a red cat"])[0]);
    expect(table!.tokens.slice(0, 7).map(({ position, text, kind }) => [position, text, kind])).toEqual([
      [0, "<|startoftext|>", "start"],
      [1, "a", "text"],
      [2, "red", "text"],
      [3, "c", "text"],
      [4, "at", "text"],
      [5, "<|endoftext|>", "end"],
      [6, "<|endoftext|>", "padding"],
    ]);
  });

  test("say what falls off the end, what parts there are, and what they weigh", () => {
    const prompt = `${"word ".repeat(40)}(the end:1.5)`;
    const [cut] = pipe.tokens({ prompt, weights: true });
    const lost = cut!.tokens.filter(({ position }) => position === undefined);
    expect(lost.length).toBeGreaterThan(0);
    expect(cut!.tokens.length).toBe(77 + lost.length);
    expect(lost.at(-1)).toMatchObject({ chunk: undefined, weight: 1.5, kind: "text" });
    expect(cut!.dropped).toMatch(/the end$/);
    const [parts] = pipe.tokens({ prompt, weights: true, chunks: true });
    expect([parts!.tokens.length, parts!.dropped]).toEqual([154, ""]);
    const seen = parts!.tokens.filter(({ kind }) => kind === "text");
    expect(seen.map(({ id }) => id)).toEqual(cut!.tokens.filter(({ kind }) => kind === "text").map(({ id }) => id));
    expect(new Set(seen.map(({ chunk }) => chunk))).toEqual(new Set([0, 1]));
  });

  test("are shown by the command, as a table and as JSON", async () => {
    const { status, out } = await command("tokens", "a (red:1.3) cat", "--model", model, "--weights");
    expect([status, out]).toEqual([0, expect.stringContaining("text_encoder: 4 tokens; it takes 75\n")]);
    expect(out).toMatch(/^2 +\d+ +red +1\.3$/m);
    expect(out).not.toContain("not seen");
    const long = await command("tokens", `${"word ".repeat(80)}the end`, "--model", model);
    expect(long.out).toMatch(/^- +\d+ +\w+$/m);
    expect(long.out).toMatch(/^not seen: ".*the end"$/m);
    const json = JSON.parse((await command("tokens", "a cat", "--model", model, "--json")).out);
    expect(json.encoders[0].tokens[1]).toMatchObject({ position: 1, text: "a", weight: 1 });
    expect((await command("tokens", "a (cat", "--model", model, "--weights")).err).toContain("has no partner");
    expect((await command("tokens", "a cat", "--model", model, "--prompt2", "a dog")).err).toContain(
      "has no use for it",
    );
    expect((await command("tokens", "a cat")).err).toContain("No model was given");
  });
});

describe("allegory generate --attention-maps", () => {
  const generate = (...words: string[]) =>
    command("generate", "a red cat", "--model", model, "--threads", "1", "--steps", "1", ...words);

  test("writes a heat map for each token, all on a sheet, and the numbers", async () => {
    const maps = join(folder, "maps");
    const { status, out } = await generate("--out", join(folder, "cat.png"), "--attention-maps", maps, "--json");
    expect(status).toBe(0);
    const lines = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.find(({ event }) => event === "picture")).toMatchObject({ attention: join(maps, "seed0") });
    expect((await readdir(join(maps, "seed0"))).sort()).toEqual([
      ...["001-a.png", "002-red.png", "003-c.png", "004-at.png"],
      ...["tokens.json", "tokens.png"],
    ]);
    expect(await decodeImage(join(maps, "seed0", "002-red.png"))).toMatchObject({ width: 24, height: 24 });
    const { tokens } = await readJsonObject(join(maps, "seed0", "tokens.json"));
    const shares = (tokens as { mean: number }[]).map(({ mean }) => mean);
    expect(shares.reduce((sum, share) => sum + share, 0)).toBeCloseTo(1, 4);
    // A second picture of the seed goes beside the first.
    expect(await generate("--out", join(folder, "cat.png"), "--attention-maps", maps)).toMatchObject({ status: 0 });
    expect((await readdir(maps)).sort()).toEqual(["seed0", "seed0-2"]);
  });

  test("refuses what cannot be before anything is computed", async () => {
    const file = join(folder, "file");
    await writeFile(file, "x");
    expect((await generate("--attention-maps", file)).err).toContain("is a file; a folder is needed");
    expect((await generate("--attention-level", "1")).err).toContain("without --attention-maps");
    const wrong = await generate("--attention-maps", join(folder, "none"), "--attention-level", "3");
    expect([wrong.status, wrong.err]).toEqual([2, expect.stringContaining("It does at 0")]);
    expect(await readdir(folder)).not.toContain("none");
    expect(await readFile(file, "utf8")).toBe("x");
  });
});
