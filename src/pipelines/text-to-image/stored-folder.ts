import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../core/errors.ts";
import {
  chosenVariants,
  openTokenizer,
  type PipelineComponent,
  readJsonObject,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
  UNUSED_COMPONENTS,
} from "../../io/index.ts";
import { FAMILIES } from "./families/index.ts";
import { TRAINED_HERE, TRAINED_PIPELINE } from "./families/trained-here.ts";
import type { FamilyKind } from "./family.ts";
import type { OpenModelOptions, StoredModel } from "./model.ts";
import { storedControlNet, storedVae } from "./stored-part.ts";

/** Reads a folder in diffusers' layout. UserErrors as of `openTextToImage`. */
export async function storedFolder(
  path: string,
  { variant, hub, vae, previewVae, controlNet, scheduler }: OpenModelOptions,
): Promise<StoredModel> {
  const { className, components, options } = await readPipelineFolder(path);
  const kind = kindOf(path, className, components);
  const at = (name: string) => components.get(name)!.path;
  const encoders = kind.textEncoders.filter(({ name }) => components.has(name));
  const needs = [kind.denoiser, ...encoders.flatMap(({ name }) => [name, tokenizerOf(name)])];
  await readPipelineFolder(path, { needs: [...needs, ...(vae === undefined ? ["vae"] : [])] });
  const control = components.get("controlnet")?.path;
  const safety = components.get("safety_checker");
  // Where another autoencoder is chosen, the weights of the model's own need not be there.
  const own = await readJsonObject(join(at("vae"), "config.json")).catch(() => undefined);
  const parts = [
    ...[kind.denoiser, ...encoders.map(({ name }) => name)].map(at),
    ...(vae === undefined ? [at("vae")] : []),
    ...(controlNet === undefined && control !== undefined ? [control] : []),
  ];
  const chosen = await chosenVariants(parts, variant, { optional: hub?.variantOptional });
  const read = (folder: string) => readModelFolder(folder, { variant: chosen.of(folder) });
  const warnings = [...chosen.warnings];
  if (safety && existsSync(safety.path)) warnings.push(`The safety checker of ${path} is not run.`);
  const choice = { variant, hub, own, warn: (warning: string) => void warnings.push(warning) };
  return {
    ...{ path, className, kind },
    denoiser: await read(at(kind.denoiser)),
    vae: vae === undefined ? await read(at("vae")) : await storedVae(vae, { ...choice, field: "vae" }),
    previewVae: previewVae === undefined ? undefined : await storedVae(previewVae, { ...choice, field: "previewVae" }),
    textEncoders: await Promise.all(
      encoders.map(async ({ name }) => ({
        name,
        part: await read(at(name)),
        tokenizer: await openTokenizer(at(tokenizerOf(name))),
      })),
    ),
    controlNet:
      controlNet === undefined
        ? control === undefined
          ? undefined
          : await read(control)
        : await storedControlNet(controlNet, choice),
    scheduler: scheduler ?? (await readSchedulerConfig(at("scheduler"))),
    aestheticScore: options.requires_aesthetics_score === true,
    zerosForEmptyPrompt: options.force_zeros_for_empty_prompt === true,
    // What reading the parts above said, too.
    warnings,
  };
}

const tokenizerOf = (encoder: string) => encoder.replace("text_encoder", "tokenizer");

/** Which kind of model a folder lists the parts of. Throws a UserError for parts that it has not, and missing ones. */
function kindOf(path: string, className: string, components: ReadonlyMap<string, PipelineComponent>): FamilyKind {
  const problem = (text: string, hint: string) =>
    new UserError(`${path} is a ${className}${text}.`, { hint, field: "model" });
  const denoiser = components.get("unet") ?? components.get("transformer");
  const kinds = className === TRAINED_PIPELINE ? TRAINED_HERE : FAMILIES;
  const kind = Object.hasOwn(kinds, denoiser?.className ?? "") ? kinds[denoiser!.className]! : undefined;
  const encoders = kind?.textEncoders.map(({ name }) => name) ?? [];
  const known = [
    kind?.denoiser,
    "vae",
    "controlnet",
    "scheduler",
    ...encoders,
    ...encoders.map(tokenizerOf),
    ...UNUSED_COMPONENTS,
  ];
  const listed = [...components].map(([name, component]) => `${name} (${component.className})`);
  if (!kind || [...components.keys()].some((name) => !known.includes(name))) {
    throw problem(
      ` of ${listed.join(", ")}`,
      `Here Stable Diffusion, PixArt or FLUX.1 is needed: a ${Object.keys(FAMILIES).join(", ")}, a VAE and text encoders.`,
    );
  }
  for (const { name, classes, optional } of kind.textEncoders) {
    const encoder = components.get(name)?.className;
    if (encoder === undefined && !optional) throw problem(` without a ${name}`, `It needs a ${classes.join(" or ")}.`);
    if (encoder === undefined || classes.includes(encoder)) continue;
    throw problem(` with a ${encoder}`, `Its ${name} must be a ${classes.join(" or ")}.`);
  }
  const given = encoders.filter((name) => components.has(name));
  if (given.length === 0) throw problem(" without a text encoder", `It needs ${encoders.join(" or ")}.`);
  for (const name of ["vae", "scheduler", ...given.map(tokenizerOf)]) {
    if (!components.has(name)) throw problem(` without a ${name}`, `List it in ${join(path, "model_index.json")}.`);
  }
  return kind;
}
