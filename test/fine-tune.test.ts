import { existsSync } from "node:fs";
import { cp, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import type { Dataset } from "../src/data/index.ts";
import { input, toOnnx } from "../src/graph/index.ts";
import { openTokenizer, readModelFolder, readSafetensors, writeModelFolder } from "../src/io/index.ts";
import { type Bind, bindTextEmbeddings, bindWeights, clipText, readTextEmbedding } from "../src/models/index.ts";
import { textToImagePipeline } from "../src/pipelines/index.ts";
import { openSession } from "../src/runtime/index.ts";
import { type FineTuneRecipeInput, fineTune, readFineTuneRecipe } from "../src/train/index.ts";
import { checkpointOf, smallDataset, standOf, stopAfter, temporaryFolder } from "./train-small.ts";

type Method = FineTuneRecipeInput["method"];

const model = "test/fixtures/reference/pipelines/sd15";

/** Three pictures of random bytes, all of which the caption is for. */
function pictures(caption = "a cat"): Dataset {
  return { ...smallDataset({ count: 3, size: 24, channels: 3 }), captions: [[caption], [caption], [caption]] };
}

/** A run of a second or two. */
function recipe(run: string, changes: Partial<FineTuneRecipeInput> = {}): FineTuneRecipeInput {
  return {
    task: "fine-tune",
    model,
    method: { kind: "full" },
    data: "given by the test",
    size: 24,
    run,
    steps: 8,
    batch: 2,
    lr: 2e-3,
    lrSchedule: "constant",
    weightDecay: 0,
    checkpointEvery: 4,
    sampleEvery: 0,
    threads: 1,
    ...changes,
  };
}

/** A picture that a model draws in two steps. */
async function drawn(folder: string, request: { loras?: string[]; guidance?: number } = {}): Promise<Float32Array> {
  const pipeline = await textToImagePipeline(folder, { threads: 1 });
  try {
    const [picture] = await pipeline.generate({ prompt: "a cat", steps: 2, seed: 5, ...request });
    return picture!.float.data;
  } finally {
    await pipeline.close();
  }
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));
}

/** The loss after some training over what it is on the same noise without any, at the last steps that are logged. */
async function lossKept(changes: Partial<FineTuneRecipeInput>): Promise<number> {
  const sum = async (lr: number) => {
    const run = await temporaryFolder();
    const { metrics } = await fineTune(recipe(run, { steps: 30, ...changes, lr }), { dataset: pictures() });
    return metrics.slice(-6).reduce((total, { loss }) => total + loss, 0);
  };
  return (await sum(changes.lr!)) / (await sum(1e-12));
}

async function weightsOf(folder: string): Promise<Map<string, HostTensor>> {
  const { weights } = await readModelFolder(folder);
  return new Map(
    await Promise.all([...weights.tensors.keys()].map(async (name) => [name, await weights.read(name)] as const)),
  );
}

describe("full fine-tuning", () => {
  test("moves the parameters that the patterns name and no others, keeps only these in the checkpoint, and the folder draws", async () => {
    const run = await temporaryFolder();
    const trainable = ["unet.down_blocks.*", "unet.conv_in.bias"];
    const frozen = ["unet.down_blocks.*.bias"];
    const { model: folder } = await fineTune(recipe(run, { method: { kind: "full", trainable, frozen } }), {
      dataset: pictures(),
    });
    const wanted = (name: string) =>
      name === "conv_in.bias" || (name.startsWith("down_blocks.") && !name.endsWith(".bias"));
    const before = await weightsOf(join(model, "unet"));
    const after = await weightsOf(join(folder, "unet"));
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    const moved = [...after.keys()].filter(
      (name) => largestDifference(after.get(name)!.data as Float32Array, before.get(name)!.data as Float32Array) > 0,
    );
    expect(moved.sort()).toEqual([...before.keys()].filter(wanted).sort());
    const { tensors } = await checkpointOf(run, 8);
    const kept = [...tensors.keys()]
      .filter((name) => name.startsWith("mean/"))
      .map((name) => name.slice("mean/unet.".length));
    expect(kept.sort()).toEqual(moved);
    expect(tensors.size).toBe(4 * moved.length);
    const untouched = (part: string, file: string) => readFile(join(part, file));
    for (const file of ["text_encoder/model.safetensors", "vae/config.json", "tokenizer/vocab.json"]) {
      expect(await untouched(folder, file)).toEqual(await untouched(model, file));
    }
    expect(largestDifference(await drawn(folder), await drawn(model))).toBeGreaterThan(1e-3);
  });

  test("starts from the checkpoint's weights: without a learning rate worth the name, the written model draws the same picture", async () => {
    const run = await temporaryFolder();
    const changes = { method: { kind: "full" as const, trainable: ["*"] }, lr: 1e-12, steps: 1 };
    const { model: folder } = await fineTune(recipe(run, changes), { dataset: pictures() });
    expect(largestDifference(await drawn(folder), await drawn(model))).toBeLessThan(1e-5);
  });

  test("learns the pictures: the loss falls", async () => {
    const method: Method = { kind: "full", trainable: ["unet.*", "text_encoder.*"] };
    expect(await lossKept({ method, lr: 3e-3 })).toBeLessThan(0.98);
  });
});

describe("a LoRA", () => {
  const targets = ["unet.*.to_q", "unet.*.to_v", "unet.*.proj_in", "unet.mid_block.*.conv1", "text_encoder.*.q_proj"];
  const method = { kind: "lora", rank: 2, alpha: 6, targets, kohya: true } as const;

  test("is written in both namings, which draw the same picture as each other and another than the model alone", async () => {
    const run = await temporaryFolder();
    const { model: folder } = await fineTune(recipe(run, { method }), { dataset: pictures() });
    const written = await readSafetensors(join(folder, "pytorch_lora_weights.safetensors"));
    expect([...written.keys()].filter((name) => !/^(unet|text_encoder)\..+\.lora_[AB]\.weight$/.test(name))).toEqual(
      [],
    );
    expect(written.has("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight")).toBe(true);
    const plain = await drawn(model);
    const peft = await drawn(model, { loras: [folder] });
    const kohya = await drawn(model, { loras: [join(folder, "kohya.safetensors")] });
    expect(largestDifference(peft, plain)).toBeGreaterThan(1e-3);
    expect(largestDifference(peft, kohya)).toBeLessThan(1e-4);
    expect(largestDifference(await drawn(model, { loras: [`${folder}:0`] }), plain)).toBeLessThan(1e-6);
  });

  test("computes in training what its file does in drawing", async () => {
    const [seen, unseen] = [await temporaryFolder(), await temporaryFolder()];
    const { model: folder } = await fineTune(recipe(seen, { method, steps: 4 }), { dataset: pictures() });
    // The same weights as a model of their own: its loss must be that of the LoRA's next step.
    const fused = await fusedModel(folder);
    const more = await fineTune(recipe(seen, { method, steps: 5 }), { dataset: pictures() });
    const next = await fineTune(recipe(unseen, { model: fused, method, steps: 5, lr: 1e-12 }), { dataset: pictures() });
    expect(next.metrics[4]!.loss).toBeCloseTo(more.metrics[4]!.loss, 4);
  });

  test.each(["kaiming", "gaussian"] as const)("starts as the model itself, its first matrix %s", async (initial) => {
    const run = await temporaryFolder();
    await fineTune(recipe(run, { method: { ...method, initial }, steps: 1, lr: 1e-12, checkpointEvery: 1 }), {
      dataset: pictures(),
    });
    const { tensors } = await checkpointOf(run, 1);
    const of = (letter: string) =>
      [...tensors]
        .filter(([name]) => name.startsWith("parameters/") && name.includes(`lora_${letter}`))
        .flatMap(([, { data }]) => [...data]);
    expect(Math.max(...of("B").map(Math.abs))).toBeLessThan(1e-10);
    const deviation = Math.sqrt(of("A").reduce((sum, value) => sum + value * value, 0) / of("A").length);
    // Normal with 1/rank; uniform within ±1/√inputs, here of 16 to 216 inputs.
    if (initial === "gaussian") expect(deviation).toBeCloseTo(0.5, 1);
    else expect(deviation).toBeLessThan(1 / Math.sqrt(3 * 16) + 0.01);
  });

  test("learns: the loss falls", async () => {
    expect(await lossKept({ method: { ...method, rank: 8 }, lr: 2e-3 })).toBeLessThan(0.97);
  });

  /** The model with a LoRA added to its weights, computed here with plain loops. */
  async function fusedModel(lora: string): Promise<string> {
    const folder = await temporaryFolder();
    await cp(model, folder, { recursive: true });
    const updates = await readSafetensors(join(lora, "pytorch_lora_weights.safetensors"));
    for (const part of ["unet", "text_encoder"]) {
      const { config, className } = await readModelFolder(join(model, part));
      const tensors = await weightsOf(join(model, part));
      for (const [name, tensor] of tensors) {
        const layer = `${part}.${name.replace(/\.weight$/, "")}`;
        const [a, b] = ["A", "B"].map((letter) => updates.get(`${layer}.lora_${letter}.weight`)) as (
          | HostTensor<"float32">
          | undefined
        )[];
        if (!a || !b) continue;
        const rank = a.shape[0]!;
        const inputs = a.data.length / rank;
        const sum = Float32Array.from(tensor.data as Float32Array, (value, i) => {
          const [row, column] = [Math.floor(i / inputs), i % inputs];
          let product = 0;
          for (let r = 0; r < rank; r++) product += b.data[row * rank + r]! * a.data[r * inputs + column]!;
          return value + product;
        });
        tensors.set(name, float32(tensor.shape, sum));
      }
      const { architectures: _, _class_name: __, ...own } = config;
      await writeModelFolder(
        join(folder, part),
        { config: own, className: className!, tensors },
        { library: part === "unet" ? "diffusers" : "transformers" },
      );
    }
    return folder;
  }
});

describe("textual inversion", () => {
  const method = { kind: "textual-inversion", word: "<me>", from: "love", vectors: 2 } as const;
  const changes = { method, prompts: ["a picture of <me>"] };

  test("learns the word's rows alone, in a file that the reader of embeddings takes, and they change the text's states", async () => {
    const run = await temporaryFolder();
    const { model: folder } = await fineTune(recipe(run, { ...changes, steps: 6 }), { dataset: pictures() });
    expect([...(await checkpointOf(run, 6)).tensors.keys()].sort()).toEqual([
      "average/word",
      "mean/word",
      "parameters/word",
      "square/word",
    ]);
    const embedding = readTextEmbedding(await readSafetensors(join(folder, "learned_embeds.safetensors")), {
      name: "learned_embeds",
    });
    expect(embedding).toMatchObject({ token: "<me>", vectors: 2 });
    const encoder = await readModelFolder(join(model, "text_encoder"));
    const tokenizer = await openTokenizer(join(model, "tokenizer"));
    const [start, love, end] = tokenizer.encode("love") as [number, number, number];
    const table = (
      await encoder.weights.read(
        [...encoder.weights.tensors.keys()].find((name) => name.endsWith("token_embedding.weight"))!,
      )
    ).data as Float32Array;
    const width = embedding.rows.get("text_encoder")!.shape[1]!;
    const rows = embedding.rows.get("text_encoder")!.data as Float32Array;
    const from = table.slice(love * width, (love + 1) * width);
    expect(largestDifference(rows.slice(0, width), from)).toBeGreaterThan(1e-3);
    expect(largestDifference(rows.slice(0, width), from)).toBeLessThan(6 * 2.1e-3);
    const states = async (
      ids: readonly number[],
      change: (bind: Bind, network: ReturnType<typeof clipText>) => Bind,
    ) => {
      const network = clipText(encoder.config);
      const bind = bindWeights(network, await weightsOf(join(model, "text_encoder")));
      const graph = toOnnx(
        { last: network(input("ids", [1, ids.length], "int64")).last },
        { bind: change(bind, network) },
      );
      const session = await openSession(graph.bytes, { threads: 1 });
      try {
        return (await session.run({ ids: int64([1, ids.length], ids) })).last!.data as Float32Array;
      } finally {
        await session.close();
      }
    };
    const vocabulary = table.length / width;
    const learned = await states([start, vocabulary, vocabulary + 1, end], (bind, network) =>
      bindTextEmbeddings(network, bind, "text_encoder", [embedding]),
    );
    expect(largestDifference(learned, await states([start, love, love, end], (bind) => bind))).toBeGreaterThan(1e-3);
  });

  test("refuses words that there are, beginnings of several tokens, and captions without the word", async () => {
    const run = await temporaryFolder();
    const given = (other: object) => fineTune(recipe(run, { ...changes, ...other }), { dataset: pictures() });
    await expect(given({ method: { ...method, word: "love" } })).rejects.toThrow("the vocabulary has it");
    await expect(given({ method: { ...method, from: "love night" } })).rejects.toThrow("is not one token");
    await expect(given({ prompts: ["a cat"] })).rejects.toThrow("does not have the word <me>");
    expect(existsSync(join(run, "recipe.json"))).toBe(false);
  });
});

describe("prior preservation", () => {
  const prior = { prompt: "a dog", count: 3, steps: 2, weight: 0.5 };

  test("draws the class once, and adds its loss with its weight", async () => {
    const run = await temporaryFolder();
    const { metrics } = await fineTune(recipe(run, { prior, steps: 2 }), { dataset: pictures() });
    for (const { loss, measures } of metrics) {
      expect(loss).toBeCloseTo(measures!.subject! + 0.5 * measures!.prior!, 5);
    }
    const { shape } = (await readSafetensors(join(run, "prior.safetensors"))).get("moments")!;
    expect(shape).toEqual([3, 8, 12, 12]);
  });

  test("takes a folder of pictures in the place of drawn ones", async () => {
    const run = await temporaryFolder();
    await expect(
      fineTune(recipe(run, { prior: { ...prior, data: join(run, "missing") } }), { dataset: pictures() }),
    ).rejects.toThrow("There is no folder or file");
    await expect(fineTune(recipe(run, { prior, batch: 3 }), { dataset: pictures() })).rejects.toThrow("has no half");
  });
});

describe("a fine-tuning run", () => {
  const lora: Method = { kind: "lora", rank: 2, targets: ["unet.*.to_q", "text_encoder.*.v_proj"] };
  const variants: readonly (readonly [string, Partial<FineTuneRecipeInput>])[] = [
    ["of all parameters", { captionDropout: 0.3, offsetNoise: 0.1 }],
    ["of a LoRA with prior preservation", { method: lora, prior: { prompt: "a dog", count: 2, steps: 2 } }],
    ["of a word", { method: { kind: "textual-inversion", word: "<me>", from: "love" }, prompts: ["<me>", "one <me>"] }],
  ];

  test.each(variants)(
    "%s that is stopped and continued ends bit for bit like one that never stopped",
    async (_, changes) => {
      const [whole, parts] = [await temporaryFolder(), await temporaryFolder()];
      await fineTune(recipe(whole, changes), { dataset: pictures() });
      const first = await fineTune(recipe(parts, changes), { dataset: pictures(), ...stopAfter(3) });
      expect(first).toMatchObject({ step: 3, ended: "stopped" });
      await fineTune(recipe(parts, changes), { dataset: pictures() });
      expect(await standOf(parts, 8)).toEqual(await standOf(whole, 8));
    },
  );

  test("draws sample grids with what it has learned", async () => {
    const run = await temporaryFolder();
    const changes = { method: lora, steps: 1, sampleEvery: 1, sampleCount: 2, sampleSteps: 2 };
    const paths: string[] = [];
    await fineTune(recipe(run, changes), {
      dataset: pictures(),
      onEvent: (event) => event.kind === "samples" && paths.push(event.path),
    });
    expect(paths).toHaveLength(1);
    expect(existsSync(paths[0]!)).toBe(true);
  });

  test("refuses patterns that fit nothing, naming what is near, before anything is written", async () => {
    const run = await temporaryFolder();
    const given = (method: Method) => fineTune(recipe(run, { method }), { dataset: pictures() });
    await expect(given({ kind: "full", trainable: ["unet.down_block.*"] })).rejects.toThrow(
      "“unet.down_block.*” fits none",
    );
    await expect(given({ kind: "full", frozen: ["unet.conv_in"] })).rejects.toThrow("fits none");
    await expect(given({ kind: "full", frozen: ["unet.*"] })).rejects.toThrow("frozen too");
    await expect(given({ kind: "lora", targets: ["unet.*.to_r"] })).rejects.toThrow("“unet.*.to_r” fits none");
    await expect(given({ kind: "lora", rank: 64 })).rejects.toThrow("rank 64");
    expect(existsSync(join(run, "recipe.json"))).toBe(false);
  });

  test("refuses pictures without captions, and sizes that the autoencoder cannot take", async () => {
    const run = await temporaryFolder();
    await expect(fineTune(recipe(run), { dataset: smallDataset({ size: 24, channels: 3 }) })).rejects.toThrow(
      "has no captions",
    );
    const odd = { ...smallDataset({ count: 2, size: 25, channels: 3 }), captions: [["a"], ["b"]] };
    await expect(fineTune(recipe(run), { dataset: odd })).rejects.toThrow("multiples of 2");
  });
});

describe("distillation to few steps", () => {
  const method: Method = { kind: "distillation", guidance: [2, 8] };

  test("gives a latent consistency model that is told the guidance and draws in two steps", async () => {
    const run = await temporaryFolder();
    const { model: folder, metrics } = await fineTune(recipe(run, { method, steps: 4 }), { dataset: pictures() });
    expect(metrics.every(({ loss }) => loss > 0)).toBe(true);
    const { weights, config } = await readModelFolder(join(folder, "unet"));
    expect(config.time_cond_proj_dim).toBe(256);
    const projection = (await weights.read("time_embedding.cond_proj.weight")).data as Float32Array;
    expect(Math.max(...projection.map(Math.abs))).toBeGreaterThan(0);
    expect(await readModelFolder(join(folder, "unet"))).toMatchObject({ className: "UNet2DConditionModel" });
    const few = await drawn(folder, { guidance: 3 });
    expect(few.every(Number.isFinite)).toBe(true);
    expect(largestDifference(few, await drawn(folder, { guidance: 8 }))).toBeGreaterThan(1e-6);
    expect(JSON.parse(await readFile(join(folder, "model_index.json"), "utf8"))).toMatchObject({
      _class_name: "LatentConsistencyModelPipeline",
      scheduler: ["diffusers", "LCMScheduler"],
    });
  });

  test("with one guidance built in keeps the network's shape, and continues exactly", async () => {
    const [whole, parts] = [await temporaryFolder(), await temporaryFolder()];
    const distilled: Method = { kind: "distillation", guidance: 4, loss: "l2" };
    const changes = { method: distilled, steps: 6 };
    const { model: folder } = await fineTune(recipe(whole, changes), { dataset: pictures() });
    expect((await readModelFolder(join(folder, "unet"))).config.time_cond_proj_dim).toBe(null);
    await fineTune(recipe(parts, changes), { dataset: pictures(), ...stopAfter(3) });
    await fineTune(recipe(parts, changes), { dataset: pictures() });
    expect(await standOf(parts, 6)).toEqual(await standOf(whole, 6));
  });

  test("is the same when two sessions share a batch, moving average and fixed weights included", async () => {
    const losses = async (threads: number) => {
      const run = await temporaryFolder();
      const { metrics } = await fineTune(recipe(run, { method, steps: 3, batch: 8, threads }), { dataset: pictures() });
      return metrics.map(({ loss }) => loss);
    };
    const [one, two] = [await losses(1), await losses(2)];
    for (const [i, loss] of one.entries()) expect(two[i]! / loss).toBeCloseTo(1, 3);
  });

  test("refuses fields that it has no use for", async () => {
    const run = await temporaryFolder();
    const given = (other: object) => fineTune(recipe(run, { method, ...other }), { dataset: pictures() });
    await expect(given({ captionDropout: 0.1 })).rejects.toThrow("no use for captionDropout");
    await expect(given({ method: { ...method, guidance: [8, 2] } })).rejects.toThrow("is empty");
    await expect(given({ method: { ...method, grid: 2000 } })).rejects.toThrow("2000 steps");
  });
});

test("the recipes of the page about fine-tuning are accepted", async () => {
  const page = await readFile("docs/fine-tuning.md", "utf8");
  const recipes = [...page.matchAll(/```json\n([\s\S]*?)```/g)].map(([, text]) => JSON.parse(text!));
  expect(recipes).toHaveLength(5);
  for (const each of recipes) expect(readFineTuneRecipe(each)).toMatchObject(each);
});
