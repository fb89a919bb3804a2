import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { seeded } from "../src/core/random.ts";
import { writeSafetensors } from "../src/io/index.ts";
import { readAdapter } from "../src/models/index.ts";
import { openAdapter } from "../src/pipelines/adapters.ts";

const random = seeded(2);

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "allegory-peft-"));
});
afterAll(() => rm(root, { recursive: true }));

/** A folder as PEFT saves one, with layers of rank 4 and 2. */
async function peftFolder(config: Readonly<Record<string, unknown>> | undefined): Promise<string> {
  const folder = await mkdtemp(join(root, "peft-"));
  const pair = (layer: string, rank: number) => [
    [`base_model.model.${layer}.lora_A.weight`, random.normal([rank, 8])] as const,
    [`base_model.model.${layer}.lora_B.weight`, random.normal([8, rank])] as const,
  ];
  const tensors = new Map([...pair("mid.attn1.to_q", 4), ...pair("mid.attn1.to_out.0", 2)]);
  await writeSafetensors(join(folder, "adapter_model.safetensors"), tensors, { format: "pt" });
  if (config) await writeFile(join(folder, "adapter_config.json"), JSON.stringify(config));
  return folder;
}

/** As PEFT 0.17 writes it, shortened. */
const peftConfig = {
  ...{ peft_type: "LORA", task_type: null, base_model_name_or_path: "x", inference_mode: true, bias: "none" },
  ...{ target_modules: ["to_q", "to_out.0"], lora_dropout: 0.1, fan_in_fan_out: false, init_lora_weights: "gaussian" },
  ...{
    modules_to_save: null,
    loftq_config: {},
    megatron_core: "megatron.core",
    use_dora: false,
    qalora_group_size: 16,
  },
  ...{ r: 4, lora_alpha: 16, rank_pattern: { "to_out.0": 2 }, alpha_pattern: {}, use_rslora: false },
};

test("how strongly the layers of a folder of PEFT act stands in its adapter_config.json", async () => {
  const alphas = async (changed: Readonly<Record<string, unknown>>) =>
    (await openAdapter(await peftFolder({ ...peftConfig, ...changed }))).layers.map(({ alpha }) => alpha);
  expect(await alphas({})).toEqual([16, 16]);
  expect(await alphas({ alpha_pattern: { "attn1.to_q": 3, "to_.*": 7 } })).toEqual([7, 3]);
  expect(await alphas({ alpha_pattern: { "^to_q": 3 } })).toEqual([16, 16]);
  // alpha / √rank, as alpha·√rank / rank.
  expect(await alphas({ use_rslora: true })).toEqual([16 * Math.SQRT2, 32]);
  const { lora_alpha: _, ...standard } = peftConfig;
  const adapter = await openAdapter(await peftFolder(standard));
  expect(adapter.layers.map(({ alpha }) => alpha)).toEqual([8, 8]);
  // The file itself, too.
  const file = join(await peftFolder(peftConfig), "adapter_model.safetensors");
  expect((await openAdapter(file)).layers.map(({ alpha }) => alpha)).toEqual([16, 16]);
});

test("folders of PEFT that are no plain LoRAs, or without their configuration, are refused by name", async () => {
  const refusal = async (config: Readonly<Record<string, unknown>> | undefined) => {
    const error = await openAdapter(await peftFolder(config)).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  };
  const changes: readonly (readonly [Readonly<Record<string, unknown>>, string])[] = [
    [{ use_dora: true }, '"use_dora" is true; DoRA'],
    [{ peft_type: "LOHA" }, '"peft_type" is "LOHA"; only "LORA"'],
    [{ fan_in_fan_out: true }, '"fan_in_fan_out" is true'],
    [{ bias: "all" }, '"bias" is "all"'],
    [{ lora_bias: true }, '"lora_bias" is true'],
    [{ modules_to_save: ["conv_out"] }, '"modules_to_save" is ["conv_out"]'],
    [{ init_lora_weights: "pissa_niter_4" }, '"init_lora_weights" is "pissa_niter_4"'],
    [{ of_tomorrow: 3 }, '"of_tomorrow" is 3; this is more than a plain LoRA'],
    [{ lora_alpha: "16" }, '"lora_alpha" is "16"; a number is needed'],
    [{ alpha_pattern: { to_q: "1" } }, '"alpha_pattern.to_q" is "1"'],
    [{ alpha_pattern: { "(": 1 } }, "no regular expression: (."],
    [{ rank_pattern: {} }, "to_out.0 has rank 4; the file's has 2"],
  ];
  for (const [change, message] of changes) {
    expect(await refusal({ ...peftConfig, ...change }), message).toContain(message);
  }
  expect(await refusal(undefined)).toContain("which says how strongly the LoRA acts");
});

test("what diffusers keeps of it in the file's metadata is read in the same way", () => {
  const pair = (layer: string) => [
    [`${layer}.lora_A.weight`, random.normal([4, 8])] as const,
    [`${layer}.lora_B.weight`, random.normal([8, 4])] as const,
  ];
  const read = (notes: unknown) =>
    readAdapter(new Map([...pair("unet.a.to_q"), ...pair("text_encoder.b.q_proj")]), {
      name: "file",
      metadata: { lora_adapter_metadata: JSON.stringify(notes) },
    }).layers.map(({ alpha }) => alpha);
  expect(read({ "unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": ["to_q"] })).toEqual([2, undefined]);
  expect(
    read({ "unet.r": 4, "unet.use_rslora": true, "text_encoder.r": 4, "text_encoder.alpha_pattern": { q_proj: 1 } }),
  ).toEqual([16, 1]);
  expect(() => read({ "unet.r": 4, "unet.use_dora": true })).toThrow(
    'The lora_adapter_metadata of file (unet) cannot be taken:\n  "use_dora" is true',
  );
  expect(() => read([])).toThrow("is no JSON object");
});
