import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { inspectPath } from "../src/cli/inspection.ts";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { writeModelFolder, writeSafetensors } from "../src/io/index.ts";
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
