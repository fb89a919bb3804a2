import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32, type HostTensor, int64 } from "../core/host-tensor.ts";
import {
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
  writeDdpmPipeline,
  writeModelFolder,
  writePipelineFolder,
} from "./model-folder.ts";
import { openWeights } from "./model-weights.ts";
import { readSafetensors } from "./safetensors.ts";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-model-folder-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const tensors = new Map<string, HostTensor>([
  ["conv.weight", float32([2, 2], [1, 2, 3, 4])],
  ["conv.bias", float32([2], [0.5, -0.5])],
  ["position_ids", int64([2], [0, 1])],
]);
const model = { config: { sample_size: 8, block_out_channels: [8, 16] }, className: "UNet2DModel", tensors };

describe("a model folder", () => {
  it("gives back the config and every weight, where it lies in the file", async () => {
    const path = join(root, "plain");
    await writeModelFolder(path, model);
    const read = await readModelFolder(path);
    expect(read.className).toBe("UNet2DModel");
    expect(read.config).toMatchObject(model.config);
    expect([...read.weights.tensors.keys()].sort()).toEqual([...tensors.keys()].sort());
    for (const [name, tensor] of tensors) expect(await read.weights.read(name)).toEqual(tensor);
    const place = read.weights.tensors.get("conv.bias")!;
    expect((await readFile(place.path)).readFloatLE(place.offset + 4)).toBe(-0.5);
    expect(read.weights.metadata).toEqual({ format: "pt" });
    await expect(read.weights.read("conv.wieght")).rejects.toThrow(/has no weight conv\.wieght/);
  });

  it("is split over several files that the index names, and read as one", async () => {
    const path = join(root, "sharded");
    await writeModelFolder(path, model);
    await writeModelFolder(path, model, { maxShardBytes: 20 });
    const index = JSON.parse(await readFile(join(path, "diffusion_pytorch_model.safetensors.index.json"), "utf8"));
    expect(index.metadata.total_size).toBe(40);
    expect(index.weight_map["conv.bias"]).toBe("diffusion_pytorch_model-00002-of-00003.safetensors");
    const weights = await openWeights(path);
    expect(weights.files.length).toBe(3);
    for (const [name, tensor] of tensors) expect(await weights.read(name)).toEqual(tensor);
  });

  it("written anew keeps no shards from before, but those of other variants", async () => {
    const path = join(root, "rewritten");
    const files = async () => (await readdir(path)).filter((name) => name !== "config.json").sort();
    await writeModelFolder(path, model, { maxShardBytes: 20 });
    await writeModelFolder(path, model, { maxShardBytes: 24 });
    expect(await files()).toEqual([
      ...["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"],
      "diffusion_pytorch_model.safetensors.index.json",
    ]);
    await writeModelFolder(path, model, { maxShardBytes: 20, variant: "bf16" });
    const others = (await files()).filter((name) => name.includes("bf16"));
    expect(others.length).toBe(4);
    await writeModelFolder(path, model);
    expect(await files()).toEqual([...others, "diffusion_pytorch_model.safetensors"].sort());
    // An index that names files elsewhere, or other ones, removes nothing.
    const map = { a: "../rewritten/config.json", b: "config.json", c: `../rewritten/${others[0]}`, d: 7 };
    const index = join(path, "diffusion_pytorch_model.safetensors.index.json");
    await writeFile(index, JSON.stringify({ weight_map: map }));
    await writeModelFolder(path, model);
    expect(await readdir(path)).toEqual(expect.arrayContaining(["config.json", ...others]));
  });

  it("keeps variants apart and names those it has", async () => {
    const path = join(root, "variants");
    await writeModelFolder(path, model, { variant: "fp16", dtype: "float16" });
    await expect(openWeights(path)).rejects.toThrow(
      /no diffusion_pytorch_model\.safetensors.*has weights variant "fp16"/,
    );
    await expect(openWeights(path, { variant: "ema" })).rejects.toThrow(/model\.ema\.safetensors.*variant "fp16"/);
    const weights = await openWeights(path, { variant: "fp16" });
    expect((await weights.read("conv.bias")).data).toEqual(Uint16Array.of(0x3800, 0xb800));
    expect((await weights.read("position_ids")).dtype).toBe("int64");
    await writeModelFolder(path, model, { variant: "bf16", maxShardBytes: 20 });
    expect((await openWeights(path, { variant: "bf16" })).files.length).toBe(3);
    await writeModelFolder(path, model);
    await expect(openWeights(path, { variant: "fp32" })).rejects.toThrow(/without a variant/);
  });

  it("of transformers is named as transformers names it", async () => {
    const path = join(root, "text-encoder");
    await writeModelFolder(path, { ...model, className: "CLIPTextModel" }, { library: "transformers" });
    const read = await readModelFolder(path);
    expect(read.className).toBe("CLIPTextModel");
    expect(read.weights.files[0]).toMatch(/[\\/]model\.safetensors$/);
  });

  it("is refused with the reason when weights are missing or pickled", async () => {
    const path = join(root, "pickled");
    await mkdir(path);
    await expect(readModelFolder(path)).rejects.toThrow(/There is no file .*config\.json/);
    await writeFile(join(path, "config.json"), "{");
    await expect(readModelFolder(path)).rejects.toThrow(/config\.json is not JSON/);
    await writeFile(join(path, "config.json"), "[1]");
    await expect(readModelFolder(path)).rejects.toThrow(/holds a list; a JSON object is needed/);
    await writeFile(join(path, "config.json"), "{}");
    await expect(readModelFolder(path)).rejects.toThrow(/It has config\.json/);
    await writeFile(join(path, "diffusion_pytorch_model.bin"), "x");
    await expect(readModelFolder(path)).rejects.toThrow(/only pickled weights[\s\S]*run any program/);
    await expect(readModelFolder(join(root, "nowhere"))).rejects.toThrow(/There is no file/);
    await expect(openWeights(join(root, "nowhere"))).rejects.toThrow(/There is no folder/);
  });

  it("with an index that does not fit its shards is refused, naming the tensors", async () => {
    const path = join(root, "bad-index");
    await writeModelFolder(path, model, { maxShardBytes: 20 });
    const file = join(path, "diffusion_pytorch_model.safetensors.index.json");
    const index = JSON.parse(await readFile(file, "utf8"));
    const write = (map: unknown) => writeFile(file, JSON.stringify({ ...index, weight_map: map }));
    const { "conv.bias": bias, ...rest } = index.weight_map;
    await write({ ...index.weight_map, extra: bias });
    await expect(openWeights(path)).rejects.toThrow(/lacks extra/);
    await write({ ...rest, "conv.bias": rest["conv.weight"] });
    await expect(openWeights(path)).rejects.toThrow(/lacks conv\.bias/);
    await write({ ...rest, other: bias });
    await expect(openWeights(path)).rejects.toThrow(/holds conv\.bias, which/);
    for (const place of ["../secret.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "weights.bin", 7]) {
      await write({ ...rest, "conv.bias": place });
      await expect(openWeights(path)).rejects.toThrow(/a \.safetensors file in the same folder is needed/);
    }
    await write({});
    await expect(openWeights(path)).rejects.toThrow(/has no weight_map/);
  });

  it("with random damage in any of its files is a UserError or loads", async () => {
    const path = join(root, "damaged");
    await writeModelFolder(path, model, { maxShardBytes: 20 });
    const names = (await readdir(path)).sort();
    const good = new Map(
      await Promise.all(names.map(async (name) => [name, await readFile(join(path, name))] as const)),
    );
    const change = fc.record({ at: fc.nat(500), remove: fc.nat(3), insert: fc.uint8Array({ maxLength: 3 }) });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...names),
        fc.array(change, { minLength: 1, maxLength: 3 }),
        async (name, changes) => {
          let bytes = good.get(name)!;
          for (const { at, remove, insert } of changes) {
            const from = at % (bytes.length + 1);
            bytes = Buffer.concat([bytes.subarray(0, from), insert, bytes.subarray(from + remove)]);
          }
          await writeFile(join(path, name), bytes);
          try {
            const { weights } = await readModelFolder(path);
            for (const tensor of weights.tensors.keys()) await weights.read(tensor);
          } catch (error) {
            if (!(error instanceof UserError)) throw error;
            expect(error.message).toContain(path);
          } finally {
            await writeFile(join(path, name), good.get(name)!);
          }
        },
      ),
      { numRuns: 1500 },
    );
  });

  it("that links to a cache gives the real path of its weights", async () => {
    const path = join(root, "linked");
    await writeModelFolder(path, model);
    const blob = join(root, "blob");
    await rename(join(path, "diffusion_pytorch_model.safetensors"), blob);
    await symlink(blob, join(path, "diffusion_pytorch_model.safetensors"));
    const weights = await openWeights(path);
    expect(weights.files[0]).toMatch(/blob$/);
    expect(await weights.read("conv.bias")).toEqual(tensors.get("conv.bias"));
  });
});

describe("a pipeline folder", () => {
  it("of an unconditional model has diffusers' files and fields", async () => {
    const path = join(root, "ddpm");
    await writeDdpmPipeline(
      path,
      { config: model.config, tensors },
      { num_train_timesteps: 1000, beta_schedule: "linear" },
    );
    expect(JSON.parse(await readFile(join(path, "model_index.json"), "utf8"))).toEqual({
      _class_name: "DDPMPipeline",
      _diffusers_version: "0.40.0",
      scheduler: ["diffusers", "DDPMScheduler"],
      unet: ["diffusers", "UNet2DModel"],
    });
    const pipeline = await readPipelineFolder(path);
    expect(pipeline.className).toBe("DDPMPipeline");
    expect([...pipeline.components.keys()]).toEqual(["scheduler", "unet"]);
    const unet = await readModelFolder(pipeline.components.get("unet")!.path);
    expect(await unet.weights.read("conv.bias")).toEqual(tensors.get("conv.bias"));
    const scheduler = await readSchedulerConfig(pipeline.components.get("scheduler")!.path);
    expect(scheduler).toMatchObject({ _class_name: "DDPMScheduler", num_train_timesteps: 1000 });
    const text = await readFile(join(path, "unet", "config.json"), "utf8");
    expect(text.indexOf("_class_name")).toBeLessThan(text.indexOf("block_out_channels"));
    expect((await readSafetensors(join(path, "unet", "diffusion_pytorch_model.safetensors"))).size).toBe(3);
  });

  it("has numbers without end as Python writes and reads them", async () => {
    const path = join(root, "infinite");
    const file = join(path, "scheduler_config.json");
    await mkdir(path);
    // As diffusers' save_pretrained writes it.
    const saved = '{\n  "_class_name": "DPMSolverMultistepScheduler",\n  "lambda_min_clipped": -Infinity\n}\n';
    await writeFile(file, saved);
    const config = await readSchedulerConfig(path);
    expect(config.lambda_min_clipped).toBe(Number.NEGATIVE_INFINITY);
    const scheduler = { className: "DPMSolverMultistepScheduler", schedulerConfig: config };
    await writePipelineFolder(path, "StableDiffusionPipeline", { scheduler });
    const written = await readFile(join(path, "scheduler", "scheduler_config.json"), "utf8");
    expect(written).toContain('"lambda_min_clipped": -Infinity\n');
    expect(await readSchedulerConfig(join(path, "scheduler"))).toMatchObject(config);
  });

  it("leaves out what is switched off and refuses what is missing", async () => {
    const path = join(root, "partial");
    await cp(join(root, "ddpm"), path, { recursive: true });
    const file = join(path, "model_index.json");
    const index = JSON.parse(await readFile(file, "utf8"));
    await writeFile(file, JSON.stringify({ ...index, safety_checker: [null, null], requires_safety_checker: false }));
    const pipeline = await readPipelineFolder(path);
    expect([...pipeline.components.keys()]).toEqual(["scheduler", "unet"]);
    expect(pipeline.options).toEqual({ requires_safety_checker: false });
    await writeFile(file, JSON.stringify({ ...index, "../vae": ["diffusers", "AutoencoderKL"] }));
    await expect(readPipelineFolder(path)).rejects.toThrow(/a folder name is needed/);
    await writeFile(file, JSON.stringify({ ...index, vae: ["diffusers", "AutoencoderKL"] }));
    expect((await readPipelineFolder(path)).components.get("vae")!.className).toBe("AutoencoderKL");
    await expect(readPipelineFolder(path, { needs: ["vae"] })).rejects.toThrow(/is not complete: .*vae is missing/);
    await expect(readPipelineFolder(path, { needs: ["text_encoder"] })).rejects.toThrow(
      /lists no text_encoder; it lists/,
    );
    await writeFile(file, JSON.stringify({ ...index, unet: ["diffusers", null] }));
    await expect(readPipelineFolder(path)).rejects.toThrow(/for unet; \[library, class\]/);
  });
});
