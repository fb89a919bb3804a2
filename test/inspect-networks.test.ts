import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { inspectPath } from "../src/cli/inspection.ts";
import { run } from "../src/cli/program.ts";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { readSafetensorsHeader, writeModelFolder, writeSafetensors } from "../src/io/index.ts";
import { autoencoderKL, networkName, type Weighted } from "../src/models/index.ts";
import { namedParameters, parameterCount } from "../src/nn/module.ts";
import { originalVae, randomWeights, under } from "./original-files.ts";
import { smallNetworks } from "./small-networks.ts";

const root = await mkdtemp(join(tmpdir(), "allegory-inspect-"));
afterAll(() => rm(root, { recursive: true, force: true }));

test.each(Object.keys(smallNetworks))("%s: parameters by part, and what is wrong with its weights", async (name) => {
  const network = smallNetworks[name]!().network as Weighted & { readonly config: Readonly<Record<string, unknown>> };
  const { _class_name: _, architectures: __, ...config } = network.config;
  const className = networkName(network.config);
  const tensors = new Map<string, HostTensor>(randomWeights(network, 1));
  const library = /^(CLIP|T5)/.test(className) ? "transformers" : "diffusers";
  const folder = join(root, name.replaceAll(/\W+/g, "-"));
  await writeModelFolder(folder, { className, config, tensors }, { library });
  const [whole] = (await inspectPath(folder)).models;
  expect(whole).toMatchObject({ className, parameters: parameterCount(network), dtypes: ["float32"] });
  expect(whole!.problem).toBeUndefined();
  expect(whole!.groups.length).toBeGreaterThan(1);
  expect(whole!.groups.reduce((sum, { parameters }) => sum + parameters, 0)).toBe(parameterCount(network));

  const first = [...namedParameters(network).keys()][0]!;
  tensors.delete(first);
  tensors.set("stranger.weight", float32([1], [0]));
  await writeModelFolder(folder, { className, config, tensors }, { library });
  const { problem } = (await inspectPath(folder)).models[0]!;
  expect(problem).toContain(`1 missing:\n  ${first}`);
  expect(problem).toContain("1 not expected:\n  stranger.weight");
});

test("a network that is not built is shown with that as its problem", async () => {
  const folder = join(root, "other");
  await writeModelFolder(folder, { className: "Kandinsky", config: {}, tensors: new Map([["a", float32([1], [0])]]) });
  expect((await inspectPath(folder)).models[0]!.problem).toContain("no network of class Kandinsky");
});

test("single files: an original autoencoder, a damaged one, a LoRA", async () => {
  const config = {
    block_out_channels: [32, 64],
    layers_per_block: 1,
    down_block_types: Array(2).fill("DownEncoderBlock2D"),
    up_block_types: Array(2).fill("UpDecoderBlock2D"),
  };
  const network = autoencoderKL(config);
  const file = new Map(under("first_stage_model.", originalVae(randomWeights(network, 1), config)));
  const path = join(root, "vae.safetensors");
  await writeSafetensors(path, file);
  const vae = await inspectPath(path);
  expect(vae.what).toContain("autoencoder of Stable Diffusion");
  expect(vae.notes.assumed).toContain("scaling_factor");
  expect(vae.models[0]).toMatchObject({ name: "vae", className: "AutoencoderKL", parameters: parameterCount(network) });

  file.delete("first_stage_model.decoder.conv_in.bias");
  await writeSafetensors(path, file);
  expect((await inspectPath(path)).notes.problem).toContain("first_stage_model.decoder.conv_in.bias");

  const lora = new Map<string, HostTensor>();
  for (const layer of ["unet.a", "unet.b", "text_encoder.c"]) {
    lora.set(`${layer}.lora_A.weight`, float32([2, 3], Array(6).fill(1)));
    lora.set(`${layer}.lora_B.weight`, float32([4, 2], Array(8).fill(1)));
  }
  await writeSafetensors(join(root, "lora.safetensors"), lora);
  expect(await inspectPath(join(root, "lora.safetensors"))).toMatchObject({
    what: "LoRA",
    notes: { layers: "text_encoder (1), unet (2)", rank: "2 (3)", alpha: "not given: the rank" },
  });
});

const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));

/** Runs `allegory inspect`. */
async function inspect(...words: string[]) {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  return { status: await run(["inspect", ...words], io), ...texts };
}

test("a pipeline without one of its parts, or with a damaged one, is shown and has a problem", async () => {
  expect((await inspectPath(sd15)).problems).toEqual([]);
  const path = join(root, "broken");
  await cp(sd15, path, { recursive: true });
  await rm(join(path, "unet"), { recursive: true });
  await rm(join(path, "vae", "config.json"));
  await writeFile(join(path, "text_encoder", "model.safetensors"), "nothing");
  const { models, problems, notes } = await inspectPath(path);
  expect(models).toEqual([]);
  expect(notes).toMatchObject({ unet: "UNet2DConditionModel", tokenizer: "CLIPTokenizer" });
  expect([...problems].sort()).toEqual([
    expect.stringMatching(/broken.unet is missing/),
    expect.stringMatching(/^text_encoder: .*model\.safetensors/),
    "vae has no config.json",
  ]);
  const { status, out, err } = await inspect(path);
  expect([status, out.includes("StableDiffusionPipeline")]).toEqual([2, true]);
  expect(err).toMatch(/cannot be used as it is:\n[\s\S]*unet is missing/);
  // Weights that are those of another network.
  await cp(join(sd15, "vae", "config.json"), join(path, "vae", "config.json"));
  await cp(
    join(sd15, "unet", "diffusion_pytorch_model.safetensors"),
    join(path, "vae", "diffusion_pytorch_model.safetensors"),
  );
  expect((await inspectPath(path)).problems).toContain("vae cannot be built from its files");
});

test("folders of a LoRA and of a learned word are shown as their files are", async () => {
  const lora = join(sd15, "lora", "pytorch_lora_weights.safetensors");
  const peft = join(root, "peft");
  await mkdir(peft);
  await cp(lora, join(peft, "adapter_model.safetensors"));
  const file = await inspectPath(lora);
  for (const folder of [join(sd15, "lora"), peft]) {
    expect(await inspectPath(folder)).toMatchObject({ what: "LoRA", path: folder, notes: file.notes });
  }
  const word = join(root, "word");
  await writeSafetensors(
    join(word, "learned_embeds.safetensors"),
    new Map([["<cat>", float32([2, 8], Array(16).fill(1))]]),
  );
  expect(await inspectPath(word)).toMatchObject({
    what: "textual-inversion embedding",
    notes: { word: "<cat>", vectors: "2", width: "8 (text_encoder)" },
  });
  const both = new Map(["clip_l", "clip_g"].map((name, i) => [name, float32([1, 4 + i], Array(4 + i).fill(1))]));
  await writeSafetensors(join(root, "style.safetensors"), both);
  expect((await inspectPath(join(root, "style.safetensors"))).notes).toMatchObject({
    ...{ word: "style", vectors: "1", width: "4 (text_encoder), 5 (text_encoder_2)" },
  });
  await writeSafetensors(join(root, "layer.safetensors"), new Map([["a.weight", float32([1, 2], [0, 0])]]));
  expect((await inspectPath(join(root, "layer.safetensors"))).what).toBe("safetensors file");
  await expect(inspectPath(join(sd15, "tokenizer"))).rejects.toThrow(/neither a run.* nor a LoRA/);
});

test("the only variant of weights is taken, of several the one that is asked for", async () => {
  const path = join(root, "variants");
  await cp(join(sd15, "vae"), path, { recursive: true });
  const at = (name: string) => join(path, `diffusion_pytorch_model${name}.safetensors`);
  await rename(at(""), at(".fp16"));
  const [model] = (await inspectPath(path)).models;
  expect(model).toMatchObject({ variant: "fp16", built: true });
  expect(model!.problem).toBeUndefined();
  expect((await inspect(path)).out).toMatch(/\(float32\), variant fp16/);
  await writeSafetensors(at(".ema"), new Map([["a", float32([1], [0])]]));
  await expect(inspectPath(path)).rejects.toThrow(/variant "ema", variant "fp16"/);
  expect((await inspectPath(path, { variant: "fp16" })).models[0]!.parameters).toBe(model!.parameters);
  // Beside weights without a name they have to be asked for.
  await cp(at(".fp16"), at(""));
  expect((await inspectPath(path)).models[0]).not.toHaveProperty("variant");
  await expect(inspectPath(path, { variant: "bf16" })).rejects.toThrow(/has weights .*variant "ema"/);
  const { status, out } = await inspect(path, "--variant", "ema");
  expect([status, out.includes("variant ema")]).toEqual([2, true]);
  // Of a pipeline's parts those that lack it are shown without one.
  const whole = join(root, "whole");
  await cp(sd15, whole, { recursive: true });
  const unet = (name: string) => join(whole, "unet", `diffusion_pytorch_model${name}.safetensors`);
  await rename(unet(""), unet(".fp16"));
  const { models, problems } = await inspectPath(whole, { variant: "fp16" });
  const shown = Object.fromEntries(models.map(({ name, variant = "" }) => [name, variant]));
  expect([shown, problems]).toEqual([{ text_encoder: "", unet: "fp16", vae: "" }, []]);
});

test.skipIf(process.platform === "win32")("a pipe is not waited for", async () => {
  const pipe = join(root, "pipe");
  await promisify(execFile)("mkfifo", [pipe]);
  await expect(inspectPath(pipe)).rejects.toThrow(/neither a file nor a folder/);
  await expect(readSafetensorsHeader(pipe)).rejects.toThrow(/neither a file nor a folder/);
});
