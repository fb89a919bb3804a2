import { UserError } from "../core/errors.ts";
import type { JsonObject } from "./json-file.ts";
import { listVariants, variantsIn, WEIGHT_NAMES } from "./model-weights.ts";

/** Components of pipelines that change no picture: they are not used here, would be downloaded for nothing, and may be missing. */
export const UNUSED_COMPONENTS: readonly string[] = [
  "safety_checker",
  "feature_extractor",
  "image_encoder",
  "watermark",
];

/** Configurations, vocabularies and the like. */
const SMALL = /\.(json|txt|model)$/;
const WEIGHTS = /\.(safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx|onnx_data|pb)$/;
/** Index files of weights, of every format. */
const WEIGHT_INDEX = /\.index(\.[\w-]+)?\.json$/;

/** The files of LoRAs and of learned words, which belong beside a model. */
const ADDITIONS: readonly (readonly [file: RegExp, advice: string])[] = [
  [
    /^(pytorch_lora_weights|adapter_model)\.safetensors$/,
    "It seems to be a LoRA: give it as one (`loras`), beside a model.",
  ],
  [
    /^learned_embeds\.safetensors$/,
    "It seems to be a textual inversion: give it as one (`embeddings`), beside a model.",
  ],
];

/** What a repository or a snapshot of it is searched for. */
export interface FileChoice {
  /** What messages call the place. */
  readonly what: string;
  readonly variant?: string;
  /**
   * Where weights of the variant are missing, those without one are taken: of parts, as long as another part has it (the
   * default), of all, or never.
   */
  readonly plain?: "parts" | "all" | "never";
}

/** The files of a folder, by their names. */
interface Folder {
  /** With a slash at its end; empty for the top. */
  readonly path: string;
  readonly names: readonly string[];
}

/**
 * The files of a repository that a model needs: with a `model_index.json`, those of the components it lists (but a safety
 * checker's); without, those of the one model it holds. Of the weights only safetensors, and of these only the variant
 * asked for, or, for components that lack it, those without one.
 *
 * @param paths every file, by its path with slashes
 * @param index the content of `model_index.json`, if there is one
 * @throws UserError when there are no such weights (and which there are), or not all of their shards
 */
export function neededFiles(paths: readonly string[], index: JsonObject | undefined, choice: FileChoice): string[] {
  const { what, variant, plain = "parts" } = choice;
  const folders = (index ? foldersOf(paths, index, what) : [""]).map((path) => folderAt(paths, path));
  // Schedulers and tokenizers have no weights; a model of one folder must.
  const weighted = folders.filter(({ path, names }) => path === "" || names.some((name) => WEIGHTS.test(name)));
  const has = (folder: Folder) => variant !== undefined && variantsIn(folder.names).includes(variant);
  const variants = new Set(weighted.flatMap(({ names }) => variantsIn(names)));
  if (variant !== undefined && variants.size > 0) {
    const missing = weighted.filter((folder) => !has(folder));
    const refused = { never: missing.length > 0, parts: missing.length === weighted.length, all: false }[plain];
    if (refused) {
      throw new UserError(
        `${what} has no ${variant} weights${missing.length === weighted.length ? "" : ` of ${missing[0]!.path}`}; it has weights ${listVariants([...variants].sort())}.`,
        { hint: "Choose another variant, or none.", field: "variant" },
      );
    }
  }
  const chosen = folders.flatMap((folder) => {
    const small = folder.names.filter((name) => SMALL.test(name) && !WEIGHT_INDEX.test(name));
    const weights = weighted.includes(folder) ? weightsIn(folder, has(folder) ? variant : undefined, what) : [];
    return [...small, ...weights].map((name) => folder.path + name);
  });
  const top = index ? ["model_index.json", BESIDE.scheduler!].filter((name) => paths.includes(name)) : [];
  return [...new Set([...top, ...chosen])];
}

function folderAt(paths: readonly string[], path: string): Folder {
  const inside = paths.filter((each) => each.startsWith(path)).map((each) => each.slice(path.length));
  return { path, names: inside.filter((name) => !name.includes("/")) };
}

/** The files that parts of the first published pipelines have beside `model_index.json`, where they have no folders. */
const BESIDE: Readonly<Record<string, string>> = { unet: "config.json", scheduler: "scheduler_config.json" };

/** The folders of the components that are used. */
function foldersOf(paths: readonly string[], index: JsonObject, what: string): string[] {
  const components = Object.entries(index)
    .filter(([name, value]) => /^[\w-]+$/.test(name) && Array.isArray(value) && typeof value[1] === "string")
    .map(([name]) => name)
    .filter((name) => !UNUSED_COMPONENTS.includes(name));
  const missing = components.filter((name) => !paths.some((path) => path.startsWith(`${name}/`)));
  const lost = missing.filter((name) => !Object.hasOwn(BESIDE, name) || !paths.includes(BESIDE[name]!));
  if (lost.length > 0) {
    throw new UserError(`${what} has no folder for ${lost.join(", ")}, which its model_index.json lists.`);
  }
  const own = components.filter((name) => !missing.includes(name)).map((name) => `${name}/`);
  return missing.includes("unet") ? ["", ...own] : own;
}

/** The files of a folder's weights: one, or an index and its shards. */
function weightsIn({ path, names }: Folder, variant: string | undefined, what: string): string[] {
  const infix = variant ? `.${variant}` : "";
  for (const stem of WEIGHT_NAMES) {
    const single = `${stem}${infix}.safetensors`;
    if (names.includes(single)) return [single];
    const index = `${stem}.safetensors.index${infix}.json`;
    if (!names.includes(index)) continue;
    const numbered = `-\\d{5}-of-(\\d{5})`;
    const escaped = infix.replaceAll(/[.\\-]/g, "\\$&");
    const pattern = new RegExp(`^${stem}(?:${escaped}${numbered}|${numbered}${escaped})\\.safetensors$`);
    const shards = names.filter((name) => pattern.test(name));
    const match = pattern.exec(shards[0] ?? "");
    const total = Number(match?.[1] ?? match?.[2] ?? 0);
    if (total > 0 && shards.length === total) return [index, ...shards];
    throw new UserError(
      `${what} has ${shards.length} of the ${total || "unknown number of"} files of ${path}${index}.`,
    );
  }
  const place = path ? `the folder ${path.slice(0, -1)} of ${what}` : what;
  const others = names.filter((name) => WEIGHTS.test(name));
  const variants = variantsIn(names);
  throw new UserError(
    `There are no safetensors weights${variants.length > 0 ? " without a variant" : " of a model"} in ${place}${others.length > 0 ? `; it has ${others.slice(0, 6).join(", ")}` : ""}.`,
    variants.length > 0
      ? { hint: `Choose the variant ${variants.join(" or ")}.`, field: "variant" }
      : { hint: adviceFor(others, path ? undefined : what), field: "model" },
  );
}

/** What to do with weights of other names. */
function adviceFor(names: readonly string[], what: string | undefined): string | undefined {
  for (const [file, advice] of ADDITIONS) if (names.some((name) => file.test(name))) return advice;
  const single = names.find((name) => name.endsWith(".safetensors"));
  if (single !== undefined)
    return what && `If it is a whole model in one file, give it by its name: ${what}/${single}.`;
  return names.length > 0
    ? "Pickled weights can run any program while they are read, so they are not opened."
    : undefined;
}
