import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { openTokenizer, readJsonObject, readModelFolder, writeJsonObject, writeSafetensors } from "../src/io/index.ts";
import {
  pipeline,
  type TextToImageOptions,
  type TextToImagePipeline,
  type TextToImageRequestInput,
} from "../src/pipelines/index.ts";
import { farthest, tinySd3, tinyXl, writeTiny } from "./tiny-models.ts";

const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
const at = (...names: string[]) => join(folder, ...names);

/** The rows that a text encoder's own table has for a text. */
async function rowsOf(model: string, text: string, number = ""): Promise<HostTensor<"float32">> {
  const tokenizer = await openTokenizer(join(model, `tokenizer${number}`));
  const { weights } = await readModelFolder(join(model, `text_encoder${number}`));
  const name = [...weights.tensors.keys()].find((one) => one.endsWith("token_embedding.weight"))!;
  const { shape, data } = await weights.read(name);
  const width = shape[1]!;
  const rows = tokenizer
    .encode(text)
    .slice(1, -1)
    .flatMap((id) => [...(data as Float32Array).subarray(id * width, (id + 1) * width)]);
  return float32([rows.length / width, width], Float32Array.from(rows));
}

/** A file of embeddings, by the names of its tensors. */
async function written(name: string, tensors: Readonly<Record<string, HostTensor>>): Promise<string> {
  await writeSafetensors(at(name), new Map(Object.entries(tensors)));
  return at(name);
}

const opened = new Map<string, Promise<TextToImagePipeline>>();
/** Draws with a model that is opened once for the same options. */
async function draw(model: string, request: TextToImageRequestInput, options: TextToImageOptions = {}) {
  const key = JSON.stringify([model, options]);
  const pipe = opened.get(key) ?? pipeline("text-to-image", model, { threads: 1, ...options });
  opened.set(key, pipe);
  return (await (await pipe).generate({ steps: 2, sampler: "euler", seed: 3, ...request }))[0]!.float.data;
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-words-"));
  await written("red-cat.safetensors", { "<thing>": await rowsOf(sd15, "red cat") });
  await written("style.safetensors", { emb_params: seeded(2).normal([3, 32]) });
  await writeTiny(at("xl"), tinyXl("base"));
  await writeTiny(at("refiner"), tinyXl("refiner"));
  await writeTiny(at("sd3"), tinySd3());
});
afterAll(async () => {
  for (const pipe of opened.values()) await (await pipe).close();
  await rm(folder, { recursive: true });
});

describe("a word with the embeddings of others", () => {
  const files = ["red-cat.safetensors", "style.safetensors"];

  test("draws what these draw, whatever else is asked of the prompt, beside a LoRA and other words", async () => {
    const options = { embeddings: files.map((name) => at(name)) };
    for (const more of [
      {},
      { weights: true, chunks: true },
      { loras: [join(sd15, "lora", "pytorch_lora_weights.safetensors")], clipSkip: 1 },
    ]) {
      const [before, after] = more.weights ? ["a photo of a (", ":1.3) in the fog"] : ["a photo of a ", " in the fog"];
      const own = await draw(sd15, { prompt: `${before}<thing>${after}`, ...more }, options);
      const theirs = await draw(sd15, { prompt: `${before}red cat${after}`, ...more });
      expect(farthest(own, theirs)).toBeLessThan(1e-5);
    }
    // It is the word that does it, and the same word of another file says something else.
    const [plain, other] = [
      await draw(sd15, { prompt: "a photo of a <thing>" }),
      await draw(sd15, { prompt: "a photo of a style" }, options),
    ];
    const own = await draw(sd15, { prompt: "a photo of a <thing>" }, options);
    expect(farthest(own, plain)).toBeGreaterThan(1e-3);
    expect(farthest(other, await draw(sd15, { prompt: "a photo of a style" }))).toBeGreaterThan(1e-3);
    // As what is drawn away from, too.
    const negative = await draw(sd15, { prompt: "a dog", negativePrompt: "<thing>" }, options);
    expect(farthest(negative, await draw(sd15, { prompt: "a dog", negativePrompt: "red cat" }))).toBeLessThan(1e-5);
  });

  test("is listed among a prompt's tokens, as many times as it has vectors, and named where it falls off", async () => {
    const pipe = await pipeline("text-to-image", sd15, { embeddings: [{ path: at("style.safetensors"), token: "∆" }] });
    const { tokens } = pipe.tokens({ prompt: "a ∆ love" })[0]!;
    const own = tokens.filter(({ kind }) => kind === "text");
    expect(own.map(({ text }) => text)).toEqual(["a", "∆", "∆", "∆", "love"]);
    expect(own.slice(1, 4).map(({ id }, i) => id - i)).toEqual(Array(3).fill(own[1]!.id));
    const room = tokens.length - 2;
    expect(pipe.dropped({ prompt: `${"a ".repeat(room - 1)}∆ dog` })).toEqual([
      expect.objectContaining({ dropped: "∆ dog" }),
    ]);
    await pipe.close();
  });
});

test("of XL both encoders have the word, the refiner's one too, and the end of the text stays where it is", async () => {
  // Published configurations of XL have this end token: the place of the highest id.
  for (const model of ["xl", "refiner"]) {
    const config = at(model, "text_encoder_2", "config.json");
    await writeJsonObject(config, { ...(await readJsonObject(config)), eos_token_id: 2 });
  }
  const embeddings = [
    await written("words.safetensors", {
      clip_l: await rowsOf(at("xl"), "red cat"),
      clip_g: await rowsOf(at("xl"), "red cat", "_2"),
    }),
  ];
  const request = { refineFrom: 0.5, guidance: 3 };
  const options = { refiner: at("refiner") };
  const own = await draw(at("xl"), { ...request, prompt: "a words in the fog" }, { ...options, embeddings });
  const theirs = await draw(at("xl"), { ...request, prompt: "a red cat in the fog" }, options);
  // The refiner's table is that of the base's second encoder.
  expect(farthest(own, theirs)).toBeLessThan(1e-5);
  expect(farthest(own, await draw(at("xl"), { ...request, prompt: "a words in the fog" }, options))).toBeGreaterThan(
    1e-3,
  );
  const base = { guidance: 3 };
  expect(
    farthest(
      await draw(at("xl"), { ...base, prompt: "a words in the fog" }, { embeddings }),
      await draw(at("xl"), { ...base, prompt: "a red cat in the fog" }),
    ),
  ).toBeLessThan(1e-5);
});

/** Runs a command line in this process. */
async function command(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const status = await run(words, io);
  return { status, ...texts };
}

test("allegory generate takes them, by the file's word or another, and a picture says which it was drawn with", async () => {
  const out = at("drawn");
  const words = ["--model", sd15, "--threads", "1", "--steps", "2", "--out", out];
  const mine = `my-cat=${at("red-cat.safetensors")}`;
  const options = ["--embeddings", mine, "--embeddings", at("style.safetensors")];
  expect(await command("generate", "my-cat, style", ...words, ...options)).toMatchObject({ status: 0, err: "" });
  const [file] = await readdir(out);
  expect(JSON.parse((await command("info", join(out, file!), "--json")).out)).toMatchObject({
    opened: { embeddings: [mine, at("style.safetensors")] },
  });
  const like = ["generate", "--threads", "1", "--like", join(out, file!), "--out", at("again.png")];
  expect(await command(...like)).toMatchObject({ status: 0 });
  expect(await readFile(at("again.png"))).toEqual(await readFile(join(out, file!)));
  // Without the words it is another picture.
  expect(await command("generate", "my-cat, style", ...words)).toMatchObject({ status: 0 });
  const other = (await readdir(out)).find((name) => name !== file)!;
  expect(await readFile(join(out, other))).not.toEqual(await readFile(join(out, file!)));
  const tokens = await command("tokens", "my-cat", "--model", sd15, "--embeddings", mine);
  expect(tokens.out.match(/my-cat/g)!.length).toBeGreaterThan(1);
});

describe("refused is, with what to do,", () => {
  const refusals: [string, () => Promise<readonly string[]>, string, RegExp][] = [
    [
      "an embedding of another width",
      async () => [await written("wide.safetensors", { emb_params: seeded(1).normal([1, 48]) })],
      sd15,
      /The embedding of wide is 48 wide, the text_encoder 32.\nIt was made for another model/,
    ],
    [
      "a pickle",
      async () => {
        await writeFile(at("cat.pt"), Uint8Array.from([0x80, 2, ...Array<number>(200).fill(46)]));
        return [at("cat.pt")];
      },
      sd15,
      /cat.pt is a Python pickle, not safetensors.\nPickle files can run any program/,
    ],
    [
      "a file that there is not",
      async () => [at("missing.safetensors")],
      sd15,
      /There is no embedding .*missing.*\n.*`word=file`/,
    ],
    [
      "a folder without one",
      async () => {
        await mkdir(at("empty"), { recursive: true });
        return [at("empty")];
      },
      sd15,
      /empty holds no learned_embeds.safetensors/,
    ],
    [
      "one word for two",
      async () => [at("red-cat.safetensors"), `<thing>=${at("style.safetensors")}`],
      sd15,
      /Two embeddings are for the word <thing>.\nGive one of them another/,
    ],
    [
      "a word that the model has",
      async () => [`love=${at("style.safetensors")}`],
      sd15,
      /“love” is a word of the model's own vocabulary.*\nChoose another word: `<my-love>=path`/,
    ],
    ["a word with nothing in it", async () => [` =${at("style.safetensors")}`], sd15, /there is nothing to read in it/],
    [
      "a single encoder's embedding for XL",
      async () => [await written("for-one.safetensors", { emb_params: seeded(1).normal([1, 4]) })],
      "xl",
      /The embedding of for-one has nothing for the text_encoder_2/,
    ],
    [
      "an embedding for T5",
      async () => [
        await written("flow.safetensors", { clip_l: seeded(1).normal([1, 4]), clip_g: seeded(1).normal([1, 8]) }),
      ],
      "sd3",
      /The text_encoder_3 is T5's.*\n.*Stable Diffusion 1.x, 2.x and XL/,
    ],
  ];
  test.each(refusals)("%s", async (_, files, model, message) => {
    const opening = pipeline("text-to-image", model === sd15 ? sd15 : at(model), { embeddings: await files() });
    await expect(opening).rejects.toMatchObject({ name: "UserError", message: expect.stringMatching(message) });
  });
});
