import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { decodeImage, readSafetensors, writeSafetensors } from "../src/io/index.ts";
import { initialize, matchWeights, perceptualDistance, vqModel } from "../src/models/index.ts";
import {
  type AutoencoderRecipeInput,
  readAutoencoderRecipe,
  runPaths,
  type TrainingResult,
  trainAutoencoder,
} from "../src/train/index.ts";
import {
  checkpointOf,
  type Dataset,
  loggedSteps,
  smallDataset,
  standOf,
  stopAfter,
  temporaryFolder,
} from "./train-small.ts";

/** An autoencoder of two levels that trains in a fraction of a second. */
function recipe(run: string, changes: Partial<AutoencoderRecipeInput> = {}): AutoencoderRecipeInput {
  return {
    task: "autoencoder",
    data: "given by the test",
    run,
    channels: [8, 8],
    middleAttention: false,
    steps: 20,
    batch: 4,
    warmup: 4,
    checkpointEvery: 5,
    sampleEvery: 0,
    threads: 1,
    seed: 3,
    ...changes,
  };
}

const discriminating = { adversarialFrom: 6, discriminatorChannels: 4, discriminatorLevels: 1 } as const;

/** Gray pictures of 8×8 pixels, darker or lighter on one side or above: few, and easily told apart. */
function tinyPictures(): Dataset {
  const edges = [
    (x: number) => x < 4,
    (_: number, y: number) => y < 4,
    (x: number) => x < 2,
    (x: number, y: number) => x + y < 7,
  ];
  const images = edges.flatMap((within, i) =>
    Array.from({ length: 64 }, (_, k) => (within(k % 8, Math.floor(k / 8)) ? 60 * i : 255 - 40 * i)),
  );
  const size = { count: edges.length, channels: 1 as const, height: 8, width: 8 };
  return { name: "edges", images: Uint8Array.from(images), ...size, flip: false, warnings: [] };
}

const both = (dataset: Dataset) => ({ training: dataset, heldOut: dataset });
const random = both(smallDataset());

async function evaluationsOf(run: string): Promise<Record<string, number>[]> {
  const text = await readFile(runPaths(run).evaluations, "utf8");
  return text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

const measuresAt = ({ metrics }: TrainingResult, step: number) => metrics.find((line) => line.step === step)!.measures!;

describe("an autoencoder with a codebook", () => {
  test("learns a handful of pictures, and says how its codebook is used: in batches and over what is held out", async () => {
    const run = await temporaryFolder();
    const pictures = tinyPictures();
    const changes = {
      kind: "vq",
      codebookSize: 16,
      codebookWidth: 3,
      steps: 120,
      lr: 1e-2,
      ema: 0.8,
      sampleEvery: 120,
      checkpointEvery: 120,
    } as const;
    const result = await trainAutoencoder(recipe(run, changes), { data: both(pictures) });
    const [first, last] = [1, 120].map((step) => measuresAt(result, step));
    expect(Object.keys(first!)).toEqual(["reconstruction", "commitment", "usage", "perplexity"]);
    expect(last!.reconstruction).toBeLessThan(0.1 * first!.reconstruction!);
    expect(last!.usage).toBeGreaterThan(2 / 16);
    // No more entries can be equally frequent than occur.
    expect(last!.perplexity).toBeLessThanOrEqual(16 * last!.usage! + 1e-4);
    expect(last!.perplexity).toBeGreaterThan(1);

    const [evaluation] = await evaluationsOf(run);
    expect(evaluation!.step).toBe(120);
    expect(evaluation!.psnr).toBeGreaterThan(15);
    expect(evaluation!.usage).toBeCloseTo(Math.round(16 * evaluation!.usage!) / 16, 10);
    expect(evaluation!.perplexity).toBeLessThanOrEqual(16 * evaluation!.usage! + 1e-9);
    // Pictures of 8×8 have no window of structural similarity.
    expect(evaluation).not.toHaveProperty("ssim");
    const grid = await decodeImage(join(runPaths(run).samples, "step-00000120.png"), { channels: 1 });
    expect([grid.width, grid.height]).toEqual([4 * 16 + 5 * 2, 2 * 16 + 3 * 2]);

    // The folder is diffusers' VQModel of that size.
    const config = JSON.parse(await readFile(join(result.model, "config.json"), "utf8"));
    expect(config).toMatchObject({
      _class_name: "VQModel",
      num_vq_embeddings: 16,
      vq_embed_dim: 3,
      latent_channels: 4,
    });
    const weights = await readSafetensors(join(result.model, "diffusion_pytorch_model.safetensors"));
    expect(matchWeights(vqModel(config), weights).get("quantize.embedding.weight")!.stored.shape).toEqual([16, 3]);
  });
});

describe("an autoencoder with a discriminator", () => {
  test("learns a handful of pictures; the discriminator stands still until its step, and stays out of the model", async () => {
    const run = await temporaryFolder();
    const changes = {
      ...discriminating,
      adversarialFrom: 61,
      reconstruction: "l1",
      steps: 120,
      lr: 1e-2,
      ema: 0.8,
      beta1: 0.5,
      beta2: 0.9,
      checkpointEvery: 60,
      sampleEvery: 120,
    } as const;
    const result = await trainAutoencoder(recipe(run, changes), { data: both(tinyPictures()) });
    const [first, before, last] = [1, 60, 120].map((step) => measuresAt(result, step));
    const names = ["reconstruction", "kl", "adversarial", "adversarialWeight", "discriminator", "real", "fake"];
    expect(Object.keys(first!)).toEqual(names);
    expect(before!.adversarialWeight).toBe(0);
    // Nothing has moved it: what it says of the same pictures in another order is the same.
    expect(before!.real).toBeCloseTo(first!.real!, 5);
    expect(last!.adversarialWeight).toBeGreaterThan(0);
    expect(last!.real).not.toBeCloseTo(first!.real!, 2);
    expect(last!.reconstruction).toBeLessThan(0.3 * first!.reconstruction!);
    expect((await evaluationsOf(run))[0]!.psnr).toBeGreaterThan(15);

    const [early, late] = await Promise.all([60, 120].map((step) => checkpointOf(run, step)));
    const own = [...late!.tensors.keys()].filter((name) => name.startsWith("square/discriminator."));
    expect(own.length).toBeGreaterThan(4);
    for (const name of own) {
      expect(early!.tensors.get(name)!.data.every((value) => value === 0)).toBe(true);
      // Inside the margins the hinge pulls real pictures up as much as drawn ones down: nothing is left for the last bias.
      if (name.endsWith("conv_out.bias")) continue;
      expect(late!.tensors.get(name)!.data.some((value) => value !== 0)).toBe(true);
    }
    const model = await readSafetensors(join(result.model, "diffusion_pytorch_model.safetensors"));
    expect([...model.keys()].filter((name) => name.includes("discriminator"))).toEqual([]);
  });

  test.each([
    ["of a variational autoencoder, stopped while its discriminator learns", { ...discriminating }],
    [
      "of an autoencoder with a codebook, stopped before its discriminator learns",
      { ...discriminating, kind: "vq", codebookSize: 8, adversarialFrom: 13 },
    ],
  ] as const)("a run %s goes on to the bit as if it had not been", async (_, changes) => {
    const [whole, parts] = await Promise.all([temporaryFolder(), temporaryFolder()]);
    await trainAutoencoder(recipe(whole, changes), { data: random });
    const first = await trainAutoencoder(recipe(parts, changes), { data: random, ...stopAfter(10) });
    expect(first).toMatchObject({ step: 10, ended: "stopped" });
    const second = await trainAutoencoder(recipe(parts, changes), { data: random });
    expect(second).toMatchObject({ step: 20, ended: "steps" });
    expect(await standOf(parts, 20)).toEqual(await standOf(whole, 20));
    expect(await loggedSteps(parts)).toEqual(await loggedSteps(whole));
  });
});

/** Weights in torchvision's naming and the layout of VGG16, but narrow. */
function featureNetwork(seed: number, { linear = false } = {}): Map<string, HostTensor<"float32">> {
  const network = perceptualDistance({ widths: [4, 4, 4, 4, 4], linear });
  const weights = initialize(network, seeded(seed));
  return weights.set("classifier.0.weight", float32([2, 2], [1, 2, 3, 4]));
}

describe("a perceptual loss", () => {
  test("is part of the loss; its weights are in no checkpoint, and a run does not go on with others", async () => {
    const run = await temporaryFolder();
    const file = join(run, "features.safetensors");
    await writeSafetensors(file, featureNetwork(1));
    const data = both(smallDataset({ size: 16 }));
    const changes = { perceptual: file, perceptualWeight: 3, steps: 2 } as const;
    const result = await trainAutoencoder(recipe(run, changes), { data });
    const { loss, measures } = result.metrics[0]!;
    const { reconstruction, perceptual, kl } = measures!;
    expect(perceptual).toBeGreaterThan(0.01);
    expect(loss).toBeCloseTo(reconstruction! + 3 * perceptual! + 1e-6 * kl!, 5);
    const { tensors } = await checkpointOf(run, 2);
    expect([...tensors.keys()].filter((name) => name.includes("features"))).toEqual([]);

    const moved = join(run, "moved.safetensors");
    await writeSafetensors(moved, featureNetwork(1));
    const elsewhere = await trainAutoencoder(recipe(run, { ...changes, perceptual: moved }), { data });
    expect(elsewhere).toMatchObject({ step: 2, ended: "steps" });
    await writeSafetensors(moved, featureNetwork(2));
    const other = trainAutoencoder(recipe(run, { ...changes, perceptual: moved, steps: 3 }), { data });
    await expect(other).rejects.toThrow(/The run was started on other data than random images, compared by .*moved/);
  });

  test.each([
    ["batch normalization between", ["features.1.running_mean"], /1 not expected:\n {2}features.1.running_mean/],
    ["another network", ["conv1.weight"], /1 not expected:\n {2}conv1.weight/],
  ])("refuses weights with %s by name, and says what would fit", async (_, extra, message) => {
    const folder = await temporaryFolder();
    const file = join(folder, "other.safetensors");
    const weights = featureNetwork(1);
    for (const name of extra) weights.set(name, float32([4], [1, 2, 3, 4]));
    await writeSafetensors(file, weights);
    const running = trainAutoencoder(recipe(folder, { perceptual: file }), { data: both(smallDataset({ size: 16 })) });
    await expect(running).rejects.toThrow(message);
    await expect(running).rejects.toThrow(/convolutions of VGG16 are needed as torchvision names them/);
  });

  test("refuses weights of LPIPS that are missing or of other channels, a file that is none, and small pictures", async () => {
    const folder = await temporaryFolder();
    const [file, linear, text] = ["vgg.safetensors", "lin.safetensors", "notes.txt"].map((name) => join(folder, name));
    await writeSafetensors(file!, featureNetwork(1));
    const lin = [...featureNetwork(1, { linear: true })].filter(([name]) => name.startsWith("lin"));
    const wider = new Map([
      ...lin.slice(0, 4),
      ["lin3.model.1.weight", float32([1, 5, 1, 1], [1, 1, 1, 1, 1])] as const,
    ]);
    await writeSafetensors(linear!, wider);
    await writeFile(text!, "This is a text that is long enough to be taken for something else.");
    const attempt = (changes: Partial<AutoencoderRecipeInput>, size = 16) =>
      trainAutoencoder(recipe(folder, changes), { data: both(smallDataset({ size })) });
    const running = attempt({ perceptual: file, perceptualLinear: linear });
    await expect(running).rejects.toThrow(/lin4.model.1.weight \[1, 4, 1, 1\]/);
    await expect(running).rejects.toThrow(/lin3.model.1.weight: \[1, 5, 1, 1\] instead of \[1, 4, 1, 1\]/);
    await expect(attempt({ perceptual: join(folder, "none") })).rejects.toThrow(/There is no file/);
    await expect(attempt({ perceptual: text! })).rejects.toThrow(UserError);
    await expect(attempt({ perceptual: file }, 8)).rejects.toThrow(
      /at least 16 pixels; those of random images have 8×8/,
    );
  });
});

describe("the recipe of an autoencoder", () => {
  const read = (changes: object) => readAutoencoderRecipe({ ...recipe("runs/x"), ...changes });

  test("has the defaults of its kind, and records no others", () => {
    const plain = read({});
    expect(plain).toMatchObject({ kind: "kl", klWeight: 1e-6 });
    expect(Object.keys(plain).filter((name) => /codebook|perceptual|discriminator|adversarial/.test(name))).toEqual([]);
    const codebook = read({ kind: "vq", latentChannels: 5 });
    expect(codebook).toMatchObject({ codebookSize: 512, codebookWidth: 5, commitment: 0.25 });
    expect(codebook).not.toHaveProperty("klWeight");
    expect(read({ adversarialFrom: 3 })).toMatchObject({
      adversarialWeight: 0.5,
      discriminatorChannels: 64,
      discriminatorLevels: 3,
    });
    // What was recorded reads as what it was.
    for (const complete of [plain, codebook]) expect(readAutoencoderRecipe({ ...complete })).toEqual(complete);
  });

  test.each([
    [{ kind: "vq", klWeight: 1e-6 }, /klWeight: only with kind kl/],
    [{ codebookSize: 9, commitment: 1 }, /codebookSize, commitment: only with kind vq/],
    [{ perceptualWeight: 2 }, /perceptualWeight: only with perceptual/],
    [{ discriminatorLevels: 2 }, /discriminatorLevels: only with adversarialFrom/],
    [{ kind: "gan" }, /kind: "gan" was given. Accepted are kl, vq/],
    [{ adversarialFrom: 0 }, /adversarialFrom: 0 was given. Accepted is at least 1/],
    [{ codebookSze: 4 }, /codebookSze: there is no such field. Did you mean codebookSize\?/],
  ])("refuses %j by name", (changes, message) => {
    expect(() => read(changes)).toThrow(UserError);
    expect(() => read(changes)).toThrow(message);
  });

  test("with a discriminator for larger pictures is refused, with what fits", async () => {
    const run = await temporaryFolder();
    const attempt = (levels: number, size: number) =>
      trainAutoencoder(recipe(run, { adversarialFrom: 1, discriminatorLevels: levels }), {
        data: both(smallDataset({ size })),
      });
    const large = attempt(3, 16);
    await expect(large).rejects.toThrow(/with 3 levels needs pictures of at least 24 pixels; those of .* have 16×16/);
    await expect(large).rejects.toThrow(/Set discriminatorLevels to 2, or take larger pictures/);
    await expect(attempt(1, 4)).rejects.toThrow(/\nTake larger pictures/);
  });
});

test("a run that was started before a field was known goes on with its default, and no other value", async () => {
  const run = await temporaryFolder();
  await trainAutoencoder(recipe(run, { steps: 2 }), { data: random });
  const file = runPaths(run).recipe;
  const { kind, ...older } = JSON.parse(await readFile(file, "utf8"));
  expect(kind).toBe("kl");
  await writeFile(file, JSON.stringify(older));
  const others = trainAutoencoder(recipe(run, { steps: 3, ...discriminating }), { data: random });
  await expect(others).rejects.toThrow(/adversarialFrom: nothing before, 6 now/);
  const continued = await trainAutoencoder(recipe(run, { steps: 3 }), { data: random });
  expect(continued).toMatchObject({ step: 3, ended: "steps" });
});
