import { UserError } from "../core/errors.ts";
import type { JsonObject } from "./json-file.ts";
import { WEIGHT_NAMES } from "./model-weights.ts";

/** Components of pipelines that are not used here: they would be downloaded for nothing. */
const UNUSED = ["safety_checker", "feature_extractor", "image_encoder"];

/** Configurations, vocabularies and the like. */
const SMALL = /\.(json|txt|model)$/;
const WEIGHTS = /\.(safetensors|bin|pt|pth|ckpt|msgpack|h5|onnx|onnx_data|pb)$/;
/** Index files of weights, of every format. */
const WEIGHT_INDEX = /\.index(\.[\w-]+)?\.json$/;

/** What a repository or a snapshot of it is searched for. */
export interface FileChoice {
  /** What messages call the place. */
  readonly what: string;
  readonly variant?: string;
}

/**
 * The files of a repository that a model needs: with a `model_index.json`, those of the components it lists (but a safety
 * checker's); without, those of the one model it holds. Of the weights only safetensors, and of these only the variant
 * asked for.
 *
 * @param paths every file, by its path with slashes
 * @param index the content of `model_index.json`, if there is one
 * @throws UserError when there are no such weights (and which there are), or not all of their shards
 */
export function neededFiles(paths: readonly string[], index: JsonObject | undefined, choice: FileChoice): string[] {
  if (!index) return filesOf(paths, "", choice, true);
  const components = Object.entries(index).filter(
    ([name, value]) =>
      /^[\w-]+$/.test(name) && Array.isArray(value) && typeof value[1] === "string" && !UNUSED.includes(name),
  );
  const missing = components.filter(([name]) => !paths.some((path) => path.startsWith(`${name}/`)));
  if (missing.length > 0) {
    throw new UserError(
      `${choice.what} has no folder for ${missing.map(([name]) => name).join(", ")}, which its model_index.json lists.`,
    );
  }
  return ["model_index.json", ...components.flatMap(([name]) => filesOf(paths, `${name}/`, choice, false))];
}

/** The files of one folder: everything small, and the weights of the variant. */
function filesOf(paths: readonly string[], folder: string, choice: FileChoice, needsWeights: boolean): string[] {
  const own = paths
    .filter((path) => path.startsWith(folder) && !path.slice(folder.length).includes("/"))
    .map((path) => path.slice(folder.length));
  const weights = own.filter((name) => WEIGHTS.test(name));
  const chosen = needsWeights || weights.length > 0 ? weightsIn(own, folder, choice) : [];
  const small = own.filter((name) => SMALL.test(name) && !WEIGHT_INDEX.test(name));
  return [...small, ...chosen].map((name) => folder + name);
}

function weightsIn(names: readonly string[], folder: string, { what, variant }: FileChoice): string[] {
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
      `${what} has ${shards.length} of the ${total || "unknown number of"} files of ${folder}${index}.`,
    );
  }
  const place = folder ? `the folder ${folder.slice(0, -1)} of ${what}` : what;
  const others = names.filter((name) => WEIGHTS.test(name));
  throw new UserError(
    `There are no ${variant ? `${variant} ` : ""}safetensors weights in ${place}${others.length > 0 ? `; it has ${others.slice(0, 6).join(", ")}` : ""}.`,
    {
      hint: others.some((name) => name.endsWith(".safetensors"))
        ? "Choose another variant, or name one of these files."
        : "Pickled weights can run any program while they are read, so they are not opened.",
      field: "variant",
    },
  );
}
