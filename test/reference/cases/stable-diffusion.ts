import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { HostTensor } from "../../../src/core/host-tensor.ts";
import { type Random, seeded } from "../../../src/core/random.ts";
import type { SchedulerConfig } from "../../../src/diffusion/index.ts";
import { type HostImage, hostImage, readSafetensors } from "../../../src/io/index.ts";
import {
  type TextToImagePipeline,
  type TextToImageRequestInput,
  textToImagePipeline,
} from "../../../src/pipelines/index.ts";
import { type Comparison, compare } from "../case.ts";

interface Call {
  readonly prompt: string | string[];
  readonly negative_prompt?: string | string[];
  readonly prompt_2?: string | string[];
  readonly negative_prompt_2?: string | string[];
  readonly width?: number;
  readonly height?: number;
  readonly guidance_scale?: number;
  readonly guidance_rescale?: number;
  readonly num_inference_steps: number;
  readonly num_images_per_prompt?: number;
  readonly strength?: number;
  readonly eta?: number;
  readonly clip_skip?: number;
  readonly original_inference_steps?: number;
  readonly original_size?: [number, number];
  readonly crops_coords_top_left?: [number, number];
  readonly target_size?: [number, number];
  readonly negative_original_size?: [number, number];
  readonly negative_crops_coords_top_left?: [number, number];
  readonly negative_target_size?: [number, number];
}

interface StableDiffusionCase {
  readonly scheduler: { readonly class: string; readonly config: SchedulerConfig };
  readonly call: Call;
  readonly generator_seeds: number | readonly number[];
  readonly token_ids: Readonly<Record<string, readonly (readonly number[])[]>>;
  readonly token_ids_2?: Readonly<Record<string, readonly (readonly number[])[]>>;
  readonly random_draws: readonly { readonly key: string }[];
  readonly sensitivity: { readonly final_latents: number; readonly decoded: number; readonly image: number };
  readonly lora?: { readonly file: string; readonly scale: number };
}

type Tensors = ReadonlyMap<string, HostTensor>;

/** Runs a case of a Stable Diffusion pipeline from its seeds, and compares everything that was recorded of it. */
export async function runStableDiffusion(folder: string, stem: string): Promise<Comparison[]> {
  const one = JSON.parse(await readFile(`${stem}.json`, "utf8")) as StableDiffusionCase;
  const tensors = await readSafetensors(`${stem}.safetensors`);
  const scheduler = { ...one.scheduler.config, _class_name: one.scheduler.class };
  const pipe = await textToImagePipeline(folder, { threads: 1, scheduler });
  try {
    const request = requestOf(one, tensors, folder);
    return [
      ...tokens(pipe, one),
      ...(await conditions(pipe, request, tensors)),
      ...(await picture(pipe, request, one, tensors)),
    ];
  } finally {
    await pipe.close();
  }
}

function requestOf({ call, lora, generator_seeds }: StableDiffusionCase, tensors: Tensors, folder: string) {
  const guided = (call.guidance_scale ?? 7.5) > 1;
  const pictures = (Array.isArray(call.prompt) ? call.prompt.length : 1) * (call.num_images_per_prompt ?? 1);
  const request: TextToImageRequestInput = {
    prompt: call.prompt,
    // Without guidance diffusers passes over negative prompts; here they are refused.
    negativePrompt: guided ? call.negative_prompt : undefined,
    prompt2: call.prompt_2,
    negativePrompt2: guided ? call.negative_prompt_2 : undefined,
    width: call.width,
    height: call.height,
    guidance: call.guidance_scale,
    guidanceRescale: call.guidance_rescale,
    steps: call.num_inference_steps,
    originalSteps: call.original_inference_steps,
    count: call.num_images_per_prompt,
    strength: call.strength,
    // Samplers without it are not given it by diffusers.
    eta: call.eta || undefined,
    clipSkip: call.clip_skip,
    originalSize: call.original_size,
    cropTopLeft: call.crops_coords_top_left,
    targetSize: call.target_size,
    negativeOriginalSize: call.negative_original_size,
    negativeCropTopLeft: call.negative_crops_coords_top_left,
    negativeTargetSize: call.negative_target_size,
    image: imageOf(tensors.get("input.image_u8")),
    mask: imageOf(tensors.get("input.mask_u8")),
    // diffusers puts nothing back.
    keepOutside: tensors.has("input.mask_u8") ? false : undefined,
    loras: lora && [{ path: join(folder, "cases", lora.file), scale: lora.scale }],
    seeds: Array.isArray(generator_seeds) && generator_seeds.length === pictures ? [...generator_seeds] : undefined,
    batch: pictures,
  };
  return request;
}

/** [height, width] or [height, width, 3]. */
function imageOf(tensor: HostTensor | undefined): HostImage | undefined {
  if (!tensor) return undefined;
  const [height, width, channels = 1] = tensor.shape as [number, number, number?];
  return hostImage(width, height, channels as 1 | 3, tensor.data as Uint8Array);
}

function tokens(pipe: TextToImagePipeline, { call, token_ids, token_ids_2 }: StableDiffusionCase): Comparison[] {
  const texts: Readonly<Record<string, unknown>> = { ...call, empty: "" };
  return [token_ids, token_ids_2 ?? {}].flatMap((tables, encoder) =>
    Object.entries(tables).flatMap(([name, rows]) => {
      const list = [texts[name] ?? []].flat() as string[];
      return rows.map((row, i) => {
        const ours = pipe.text.tokens([list[i]!, list[i]!])[encoder]!;
        return compare(`token_ids${encoder === 0 ? "" : "_2"}.${name}[${i}]`, ours, row, {});
      });
    }),
  );
}

async function conditions(
  pipe: TextToImagePipeline,
  request: TextToImageRequestInput,
  tensors: Tensors,
): Promise<Comparison[]> {
  const { positive, negative } = await pipe.conditions(request);
  const said: [string, readonly (HostTensor | undefined)[]][] = [
    ["prompt_embeds", [positive.text]],
    ["negative_prompt_embeds", [negative?.text]],
    ["pooled_prompt_embeds", [positive.textEmbeds]],
    ["negative_pooled_prompt_embeds", [negative?.textEmbeds]],
    ["unet0.added.text_embeds", [negative?.textEmbeds, positive.textEmbeds]],
    ["unet0.added.time_ids", [negative?.timeIds, positive.timeIds]],
    ["unet0.timestep_cond", [positive.timestepCondition]],
  ];
  return said.flatMap(([name, parts]) => {
    const theirs = tensors.get(name)?.data as Float32Array | undefined;
    if (!theirs) return [];
    const ours = parts.flatMap((part) => (part ? [...(part.data as Float32Array)] : []));
    // Where there is one row for all pictures of a prompt, ours repeat it.
    return [compare(name, ours.slice(0, theirs.length), theirs, { absolute: 1e-5 })];
  });
}

async function picture(
  pipe: TextToImagePipeline,
  request: TextToImageRequestInput,
  { generator_seeds, random_draws, sensitivity }: StableDiffusionCase,
  tensors: Tensors,
): Promise<Comparison[]> {
  const result: Comparison[] = [];
  const floats = (name: string) => tensors.get(name)?.data as Float32Array;
  // Twice 1e-4 of the largest value, or thirty times what a relative change of 1e-6 of the weights does.
  const close = (name: string, ours: Float32Array, change: number, relative: number, absolute = 0) => {
    const theirs = floats(name);
    if (!theirs) return;
    const largest = theirs.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    result.push(compare(name, ours, theirs, { absolute: Math.max(absolute, relative * largest, 30 * change) }));
  };
  const drawn: number[] = [];
  const recorded = (random: Random): Random => ({
    ...random,
    normal(shape, options) {
      const tensor = random.normal(shape, options);
      drawn.push(...tensor.data);
      return tensor;
    },
    fillNormal(target, options) {
      random.fillNormal(target, options);
      drawn.push(...target);
    },
  });
  const random = Array.isArray(generator_seeds)
    ? generator_seeds.map((seed) => recorded(seeded(seed)))
    : recorded(seeded(generator_seeds as number));
  let last = 0;
  for await (const state of pipe.stream({ ...request, seeds: undefined }, { random })) {
    if (state.step === 1)
      result.push(
        compare("initial_latents", state.start.data, floats("initial_latents"), {
          // Scaled noise: as exact as the numbers of rng.json.
          ...{ absolute: 1e-5, relative: 1e-6 },
        }),
      );
    // Samplers of two calls a step are recorded after each call.
    close(`step.${state.calls - 1}`, state.x.data, sensitivity.final_latents, 2e-4);
    last = state.calls - 1;
    if (!state.images || !state.decoded) continue;
    close("final_latents", state.x.data, sensitivity.final_latents, 2e-4);
    close("decoded", state.decoded.data, sensitivity.decoded, 0, 5e-4);
    const image = Float32Array.from(state.images.flatMap(({ float }) => [...float.data]));
    close("image", image, sensitivity.image, 0, 5e-4);
    const bytes = state.images.flatMap(({ data }) => [...data]);
    const theirs = tensors.get("image_u8")!.data as Uint8Array;
    result.push(compare("image_u8", bytes, theirs, { absolute: 30 * sensitivity.image > 5e-4 ? 2 : 1 }));
    const off = bytes.filter((byte, i) => byte !== theirs[i]).length / bytes.length;
    result.push(compare("share of image_u8 that is off", [off], [0], { absolute: 0.05 }));
  }
  const draws = random_draws.flatMap(({ key }) => [...floats(key)]);
  result.push(compare("random", drawn, draws, { absolute: 1e-5 }));
  if (!floats(`step.${last}`)) throw new Error(`the last of our calls is ${last}; nothing was recorded after it`);
  return result;
}
