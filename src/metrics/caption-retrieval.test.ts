import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32, hostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { type Dataset, emoji, picturesAt } from "../data/index.ts";
import { input } from "../graph/index.ts";
import { openTokenizer, tensorFromImages, writeModelFolder } from "../io/index.ts";
import { initialize } from "../models/index.ts";
import { adamwScalars, packed, unpacked } from "../optim/index.ts";
import { openSession } from "../runtime/index.ts";
import { scalarFeeds, trainingStep } from "../train/index.ts";
import {
  CAPTION_RETRIEVAL,
  type CaptionRetrieval,
  captionRetrievalNetwork,
  contrastiveLoss,
  judgeAlignment,
  openCaptionRetrieval,
  tokenIds,
} from "./index.ts";

const TOKENIZER = fileURLToPath(new URL("../../test/fixtures/reference/pipelines/sd15/tokenizer", import.meta.url));

describe("the retrieval model of the repository", () => {
  let model: CaptionRetrieval;
  let real: Dataset;
  beforeAll(async () => {
    model = await openCaptionRetrieval(undefined, { threads: 1 });
    real = await emoji({ size: 64 });
  });
  afterAll(() => model.close());

  test("finds the captions of 100 real pictures: 95 % first of the 100, all but one among the first 10", async () => {
    const chosen = seeded(7).permutation(real.count).subarray(0, 100);
    const judged = await judgeAlignment(model, tensorFromImages(picturesAt(real, chosen)), {
      captions: Array.from(chosen, (i) => real.captions![i]![0]!),
      asked: chosen.map((_, i) => i),
    });
    expect(judged).toMatchObject({ count: 100, among: 100 });
    expect(judged.top1).toBeGreaterThanOrEqual(0.95);
    expect(judged.top10).toBeGreaterThanOrEqual(0.99);
  });

  test("finds nothing in noise", async () => {
    const captions = real.captions!.slice(0, 100).map(([label]) => label!);
    const noise = seeded(1).uniform([100, 3, 64, 64], { low: -1, high: 1 });
    const { top10 } = await judgeAlignment(model, noise, { captions, asked: captions.map((_, i) => i) });
    expect(top10).toBeLessThan(0.25);
  });

  test("knows a thing by what it is called in other words than its label", async () => {
    const labels = real.captions!.map(([label]) => label);
    const pictures = ["red heart", "green heart", "snail", "volcano"].map((label) => labels.indexOf(label));
    const { embeddings: seen } = await model.see(tensorFromImages(picturesAt(real, pictures)));
    const said = await model.read(["a red heart", "a green heart", "a snail, animal", "mountain, eruption"]);
    const width = model.config.projection_dim;
    const similarity = (i: number, j: number) => {
      let dot = 0;
      for (let n = 0; n < width; n++) dot += seen.data[i * width + n]! * said.data[j * width + n]!;
      return dot;
    };
    for (let i = 0; i < 4; i++) {
      const similarities = [0, 1, 2, 3].map((j) => similarity(i, j));
      expect(similarities.indexOf(Math.max(...similarities))).toBe(i);
    }
  });

  test("sees every picture apart from those it comes with, and gives unit vectors", async () => {
    const all = tensorFromImages(
      picturesAt(
        real,
        Array.from({ length: 70 }, (_, i) => i),
      ),
    );
    const size = 3 * 64 * 64;
    const alone = float32([1, 3, 64, 64], all.data.slice(69 * size));
    const [together, single] = [await model.see(all), await model.see(alone)];
    for (const name of ["features", "embeddings"] as const) {
      const width = together[name].shape[1]!;
      const last = together[name].data.slice(69 * width);
      expect(last.length).toBe(width);
      last.forEach((value, i) => {
        expect(value).toBeCloseTo(single[name].data[i]!, 4);
      });
    }
    expect(together.features.shape).toEqual([70, model.config.features]);
    expect(Math.hypot(...single.embeddings.data)).toBeCloseTo(1, 5);
  });

  test("refuses pictures of another size and captions that are too long", async () => {
    await expect(model.see(float32([1, 3, 32, 32], new Float32Array(3072)))).rejects.toThrow(
      "Pictures of shape [1, 3, 32, 32] were given; the model takes [n, 3, 64, 64].",
    );
    await expect(model.read(["cat ".repeat(80)])).rejects.toThrow(/has 82 tokens; at most 32 are accepted/);
  });
});

describe("a retrieval model of one's own", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "retrieval-"));
    await cp(TOKENIZER, join(folder, "tokenizer"), { recursive: true });
  });
  afterAll(() => rm(folder, { recursive: true }));

  const text = {
    ...{ vocab_size: 1000, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2 },
    ...{ max_position_embeddings: 8, eos_token_id: 2 },
  };
  const sizes = { image_size: 8, channels: [8, 16], groups: 2, features: 12, projection_dim: 6, text_config: text };

  test("learns which words belong to which colours, and is opened from its folder", async () => {
    const colours = { red: [1, -1, -1], green: [-1, 1, -1], blue: [-1, -1, 1], white: [1, 1, 1], black: [-1, -1, -1] };
    const captions = Object.keys(colours);
    const n = captions.length;
    const pixels = Object.values(colours).flatMap((rgb) => rgb.flatMap((value) => Array<number>(64).fill(value)));
    const pictures = float32([n, 3, 8, 8], pixels);
    const network = captionRetrievalNetwork(sizes);
    const ids = tokenIds(await openTokenizer(TOKENIZER), captions, 8);
    const towers = [
      network.picture(input("pictures", [n, 3, 8, 8])).embedding,
      network.caption(input("ids", [n, 8], "int64")),
    ] as const;
    const loss = contrastiveLoss(...towers, network.parts.logit_scale.tensor);
    const graph = trainingStep(network, loss, { clip: 1, weightDecay: 0 });
    const { layout, resident } = graph;
    const session = await openSession(graph.model.bytes, { name: "towers", threads: 1, resident });
    const state = { parameters: packed(initialize(network, seeded(0)), layout) };
    for (const name of ["parameters", "mean", "square", "average"] as const) {
      const vector = name === "parameters" || name === "average" ? state.parameters : new Float32Array(layout.size);
      await session.write(`state.${name}`, float32([layout.size], vector));
    }
    const losses: number[] = [];
    for (let step = 1; step <= 60; step++) {
      const feeds = scalarFeeds(graph, { ...adamwScalars(step, 5e-3), averaging: 1 });
      losses.push(Number((await session.run({ ...feeds, pictures, ids })).loss!.data[0]));
    }
    const tensors = unpacked((await session.read("state.parameters")).data as Float32Array, layout);
    await session.close();
    expect(losses[0]).toBeGreaterThan(0.5 * Math.log(n));
    expect(losses.at(-1)).toBeLessThan(0.1);

    await writeModelFolder(folder, { config: network.config, className: CAPTION_RETRIEVAL, tensors });
    const opened = await openCaptionRetrieval(folder, { threads: 1, batch: 2 });
    const judged = await judgeAlignment(opened, pictures, { captions, asked: [0, 1, 2, 3, 4] });
    await opened.close();
    expect(judged.top1).toBe(1);
    expect(opened.config.text_config.max_position_embeddings).toBe(8);
  });

  test("has the parameter names of CLIPModel beside its convolutions", () => {
    const names = [...initialize(captionRetrievalNetwork(sizes), seeded(0)).keys()];
    expect(names).toEqual(
      expect.arrayContaining([
        "logit_scale",
        "visual_projection.weight",
        "text_projection.weight",
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
        "vision_model.convs.0.weight",
      ]),
    );
  });

  test("has sizes that fit, and a folder of its class", async () => {
    expect(() => captionRetrievalNetwork({ ...sizes, image_size: 10 })).toThrow(UserError);
    expect(() => captionRetrievalNetwork({ ...sizes, text_config: { heads: 2 } })).toThrow(/no such field is known/);
    const other = join(folder, "other");
    const tensors = new Map([["w", hostTensor("float32", [1], Float32Array.of(1))]]);
    await writeModelFolder(other, { config: {}, className: "CLIPModel", tensors });
    await expect(openCaptionRetrieval(other)).rejects.toThrow(/is a model of class CLIPModel/);
  });
});
