import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../core/errors.ts";
import {
  openTokenizer,
  type PipelineComponent,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
} from "../../io/index.ts";
import type { OpenModelOptions, StoredModel } from "./model.ts";

/** Parts that change no picture. */
const UNUSED = ["safety_checker", "feature_extractor", "image_encoder", "watermark"];
const KNOWN = [
  ...["unet", "vae", "controlnet", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"],
  ...UNUSED,
];

/** Reads a folder in diffusers' layout. UserErrors as of `openTextToImage`. */
export async function storedFolder(
  path: string,
  { variant, vae, controlNet, scheduler }: OpenModelOptions,
): Promise<StoredModel> {
  const { className, components, options } = await readPipelineFolder(path);
  checkComponents(path, className, components);
  const at = (name: string) => components.get(name)!.path;
  const read = (folder: string) => readModelFolder(folder, { variant });
  const encoders = ["", "_2"].filter((suffix) => components.has(`text_encoder${suffix}`));
  const control = controlNet ?? components.get("controlnet")?.path;
  const safety = components.get("safety_checker");
  return {
    path,
    className,
    denoiser: await read(at("unet")),
    vae: await read(vae ?? at("vae")),
    textEncoders: await Promise.all(
      encoders.map(async (suffix) => ({
        name: `text_encoder${suffix}`,
        part: await read(at(`text_encoder${suffix}`)),
        tokenizer: await openTokenizer(at(`tokenizer${suffix}`)),
      })),
    ),
    controlNet: control === undefined ? undefined : await read(control),
    scheduler: scheduler ?? (await readSchedulerConfig(at("scheduler"))),
    aestheticScore: options.requires_aesthetics_score === true,
    zerosForEmptyPrompt: options.force_zeros_for_empty_prompt === true,
    warnings: safety && existsSync(safety.path) ? [`The safety checker of ${path} is not run.`] : [],
  };
}

function checkComponents(path: string, className: string, components: ReadonlyMap<string, PipelineComponent>): void {
  const problem = (text: string, hint: string) =>
    new UserError(`${path} is a ${className}${text}.`, { hint, field: "model" });
  const others = [...components.keys()].filter((name) => !KNOWN.includes(name));
  const unet = components.get("unet");
  if (others.length > 0 || unet?.className !== "UNet2DConditionModel") {
    const parts = [...components].map(([name, component]) => `${name} (${component.className})`);
    throw problem(
      ` of ${parts.join(", ")}`,
      "Here Stable Diffusion is needed: a UNet2DConditionModel, a VAE and CLIP text encoders.",
    );
  }
  const encoders = ["text_encoder", "text_encoder_2"].filter((name) => components.has(name));
  for (const name of encoders) {
    const { className: encoder } = components.get(name)!;
    if (encoder.startsWith("CLIPText")) continue;
    throw problem(` with a ${encoder}`, "Its text encoders must be CLIPTextModel or CLIPTextModelWithProjection.");
  }
  if (encoders.length === 0) throw problem(" without a text encoder", "It needs text_encoder or text_encoder_2.");
  for (const name of ["vae", "scheduler", ...encoders.map((encoder) => encoder.replace("text_encoder", "tokenizer"))]) {
    if (!components.has(name)) throw problem(` without a ${name}`, `List it in ${join(path, "model_index.json")}.`);
  }
}
