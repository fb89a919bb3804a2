import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { float32, type HostTensor } from "../../../src/core/host-tensor.ts";
import { input, type Tensor, toOnnx } from "../../../src/graph/index.ts";
import { readJsonObject, readSafetensors } from "../../../src/io/index.ts";
import { bindWeights, clipText, type Lora, lora, unet2dCondition } from "../../../src/models/index.ts";
import { openAdapter } from "../../../src/pipelines/adapters.ts";
import { inferenceTarget, openSession } from "../../../src/runtime/index.ts";
import { type CaseKind, type Comparison, compare, type ReferenceCase } from "../case.ts";
import { folderWeights } from "./models.ts";

interface LoraNotes {
  readonly timestep: number;
  readonly outputs: readonly { readonly key: string; readonly file: string; readonly scale: number }[];
}

const FILES: Readonly<Record<string, string>> = {
  peft: "pytorch_lora_weights.safetensors",
  down_up_unet_only: "unet_only_lora_down_up.safetensors",
  kohya: "kohya.safetensors",
};

/** The outputs of a U-Net and of a text encoder with LoRAs, fused and switchable (`pipelines/sd15/lora`). */
export const loraOutputs: CaseKind = {
  kind: "lora",
  async discover(folder) {
    const path = join(folder, "pipelines", "sd15");
    const text = await readFile(join(path, "lora", "lora.json"), "utf8").catch(() => undefined);
    if (text === undefined) return [];
    const notes = JSON.parse(text) as LoraNotes;
    const cases = [{ key: "base", file: undefined, scale: 0 }, ...notes.outputs];
    return cases.flatMap(({ key, file, scale }) =>
      (["fused", "switchable"] as const).map(
        (way): ReferenceCase => ({
          name: `pipelines/sd15/lora/${key}-${way}`,
          run: () => runCase(path, notes.timestep, key, file, scale, way),
        }),
      ),
    );
  },
};

async function runCase(
  path: string,
  timestep: number,
  key: string,
  file: string | undefined,
  scale: number,
  way: "fused" | "switchable",
): Promise<Comparison[]> {
  const tensors = await readSafetensors(join(path, "lora", "lora.safetensors"));
  const unet = unet2dCondition(await readJsonObject(join(path, "unet", "config.json")));
  const text = clipText(await readJsonObject(join(path, "text_encoder", "config.json")));
  const adapters = file === undefined ? [] : [await openAdapter(join(path, "lora", FILES[file] ?? file))];
  const applied = lora(
    { unet, text_encoder: text },
    adapters.map((adapter) => ({ adapter, scale })),
  );
  const stored = (name: string) => tensors.get(name)!;
  const sample = stored("in.sample");
  const context = stored("in.encoder_hidden_states");
  const ids = stored("in.input_ids");
  const ours = {
    unet: await output(applied, "unet", unet, join(path, "unet"), way, {
      feeds: { sample, t: float32([sample.shape[0]!], [timestep]), context },
      build: (given) => unet(given("sample"), given("t"), given("context")),
    }),
    text: await output(applied, "text_encoder", text, join(path, "text_encoder"), way, {
      feeds: { ids },
      build: (given) => text(given("ids")).last,
    }),
  };
  return Object.entries(ours).map(([name, { data }]) =>
    compare(name, data as Float32Array, stored(`${key}.${name}`).data as Float32Array, { absolute: 2e-5 }),
  );
}

interface Call {
  readonly feeds: Readonly<Record<string, HostTensor>>;
  build(given: (name: string) => Tensor): Tensor;
}

async function output(
  applied: Lora,
  part: string,
  network: Parameters<typeof bindWeights>[0],
  folder: string,
  way: "fused" | "switchable",
  { feeds, build }: Call,
): Promise<HostTensor> {
  const given = (name: string) => input(name, feeds[name]!.shape, feeds[name]!.dtype);
  const bind = bindWeights(network, await folderWeights(folder));
  const switchable = way === "switchable";
  const y = switchable ? applied.branch(part, network, () => build(given)) : build(given);
  const model = toOnnx(
    { y },
    { bind: switchable ? bind : applied.fuse(part, network, bind), target: inferenceTarget() },
  );
  const scales = switchable ? Object.entries(applied.scales(part)) : [];
  const session = await openSession(model.bytes, { name: part, threads: 1, externalData: folder });
  try {
    const fed = { ...feeds, ...Object.fromEntries(scales.map(([name, value]) => [name, float32([], [value])])) };
    return (await session.run(fed)).y!;
  } finally {
    await session.close();
  }
}
