import { UserError } from "../core/errors.ts";
import { bytesPerElement, describeShape, sizeOf } from "../core/host-tensor.ts";
import { namedParameters } from "../nn/module.ts";
import { indented } from "./adapter.ts";
import { autoencoderKL } from "./autoencoder-kl.ts";
import { clipText, clipTextWithProjection } from "./clip-text.ts";
import type { Config } from "./config.ts";
import {
  clipConfig,
  familyOf,
  type OriginalFamily,
  openClipConfig,
  originalSchedulerConfig,
  type ShapeOf,
  scalingNote,
  unetConfig,
  vaeConfig,
} from "./original-config.ts";
import { type OriginalPlace, openClipPlaces, originalUNetNames, originalVaeNames } from "./original-names.ts";
import { unet2dCondition } from "./unet-2d-condition.ts";
import type { StoredWeight, Weighted, WeightSource } from "./weights.ts";

/** A component of a pipeline. */
export type OriginalPart = "unet" | "vae" | "text_encoder" | "text_encoder_2";

/** A component of an original checkpoint, under the names of diffusers. */
export interface OriginalComponent {
  readonly className: "UNet2DConditionModel" | "AutoencoderKL" | "CLIPTextModel" | "CLIPTextModelWithProjection";
  /** As its `config.json` would be. */
  readonly config: Config;
  /** The weights by the network's own names; parts of larger matrices are parts of the file. */
  readonly weights: ReadonlyMap<string, StoredWeight>;
}

/** What an original checkpoint holds. */
export interface OriginalCheckpoint {
  /** undefined where the file holds an autoencoder alone. */
  readonly family: OriginalFamily | undefined;
  readonly parts: Readonly<Partial<Record<OriginalPart, OriginalComponent>>>;
  /** As `scheduler_config.json` would be; only where there is a U-Net. */
  readonly scheduler: Config | undefined;
  /** Names that are known and not needed: averages of training, tables of the noise schedule, unused layers. */
  readonly unused: readonly string[];
  /** What was assumed because the file does not say it. */
  readonly notes: readonly string[];
}

export interface OriginalOptions {
  /** What to call the file in messages. */
  readonly what?: string;
  /** Fields of the components' configurations that are known better than the weights tell. */
  readonly configs?: Readonly<Partial<Record<OriginalPart, Config>>>;
  /** What the U-Net predicts, where it is not what most models of the family do. */
  readonly prediction?: "epsilon" | "v_prediction";
}

/** The marks of each kind of component: what it is, its prefix in the file, and a name that it always has. */
const MARKS = [
  ["unet", "model.diffusion_model.", "input_blocks.0.0.weight"],
  ["unet", "", "input_blocks.0.0.weight"],
  ["vae", "first_stage_model.", "encoder.mid.block_1.conv1.weight"],
  ["vae", "", "encoder.mid.block_1.conv1.weight"],
  ["clip", "cond_stage_model.transformer.", "text_model.final_layer_norm.weight"],
  ["clip", "cond_stage_model.transformer.", "final_layer_norm.weight"],
  ["clip", "conditioner.embedders.0.transformer.", "text_model.final_layer_norm.weight"],
  ["open-clip", "cond_stage_model.model.", "ln_final.weight"],
  ["open-clip", "conditioner.embedders.0.model.", "ln_final.weight"],
  ["open-clip", "conditioner.embedders.1.model.", "ln_final.weight"],
] as const;

/** Whether the names are those of an original checkpoint of Stable Diffusion, or of a component of one. */
export function isOriginalCheckpoint(weights: WeightSource): boolean {
  return MARKS.some(([, prefix, name]) => weights.get(prefix + name) !== undefined);
}

const NOT_NEEDED = [
  // Tables of the noise schedule, counters and marks.
  /^(betas|alphas_cumprod|alphas_cumprod_prev|lvlb_weights|logvar|scale_factor|global_step|v_pred|ztsnr)$/,
  /^(sqrt_|log_one_minus_|posterior_)\w+$/,
  /^denoiser\.(sigmas|log_sigmas)$/,
  // A second U-Net, averaged over training.
  /^model_ema\./,
  // The discriminator that the autoencoder was trained with.
  /^(first_stage_model\.)?loss\./,
  /(^|\.)embeddings\.position_ids$/,
  /^(cond_stage_model|conditioner\.embedders\.\d)\.(model\.|transformer\.)?(logit_scale|attn_mask|text_projection(\.weight)?)$/,
];

/**
 * Takes an original checkpoint of Stable Diffusion 1.x, 2.x or XL apart (the single `.safetensors` files), or a file with
 * its U-Net or autoencoder alone.
 *
 * @param weights of the file
 * @throws UserError that lists the names that are unknown and those that are missing, or that says that it is none
 */
export function originalCheckpoint(weights: WeightSource, options: OriginalOptions = {}): OriginalCheckpoint {
  const { what = "The checkpoint", configs = {} } = options;
  const parts: Partial<Record<OriginalPart, OriginalComponent>> = {};
  const notes: string[] = [];
  const used = new Set<string>();
  const missing: string[] = [];
  const wrong: string[] = [];
  let family: OriginalFamily | undefined;

  const within =
    (prefix: string): ShapeOf =>
    (name) =>
      weights.get(prefix + name)?.shape;

  const take = (part: OriginalPart, className: OriginalComponent["className"], prefix: string, config: Config) => {
    const network = build(className, config);
    const names = [...namedParameters(network).keys()];
    const places = placesOf(part, names, (name) => weights.get(prefix + name) !== undefined);
    const taken = new Map<string, StoredWeight>();
    for (const name of names) {
      const place = places.get(name);
      const stored = place && weights.get(prefix + place.name);
      if (!place || !stored) missing.push(prefix + (place?.name ?? `(${name})`));
      else {
        used.add(prefix + place.name);
        const piece = pieceOf(stored, place);
        if (piece) taken.set(name, piece);
        else wrong.push(`${prefix}${place.name} ${describeShape(stored.shape)}`);
      }
    }
    parts[part] = { className, config, weights: taken };
  };

  for (const [kind, prefix, mark] of MARKS) {
    if (weights.get(prefix + mark) === undefined) continue;
    const shape = within(prefix);
    if (kind === "unet" && !parts.unet) {
      family = familyOf(shape);
      take("unet", "UNet2DConditionModel", prefix, unetConfig(shape, family, configs.unet));
    } else if (kind === "vae" && !parts.vae) {
      if (!family && configs.vae?.scaling_factor === undefined) notes.push(scalingNote(shape));
      take("vae", "AutoencoderKL", prefix, vaeConfig(shape, family, configs.vae));
    } else if (kind === "clip" && !parts.text_encoder) {
      take("text_encoder", "CLIPTextModel", prefix, clipConfig(shape, configs.text_encoder));
    } else if (kind === "open-clip") {
      const second = prefix.startsWith("conditioner.");
      const part = second ? "text_encoder_2" : "text_encoder";
      const config = openClipConfig(shape, { projected: second, unused: second ? 0 : 1 }, configs[part]);
      take(part, second ? "CLIPTextModelWithProjection" : "CLIPTextModel", prefix, config);
    }
  }
  if (Object.keys(parts).length === 0) throw noOriginal(weights, what);

  const lastLayer = parts.text_encoder && /^cond_stage_model\.model\.transformer\.resblocks\.(\d+)\./;
  const layers = Number(parts.text_encoder?.config.num_hidden_layers);
  const unneeded = (name: string) =>
    NOT_NEEDED.some((pattern) => pattern.test(name)) || Number(lastLayer?.exec(name)?.[1] ?? -1) >= layers;
  const rest = [...weights.keys()].filter((name) => !used.has(name));
  const unknown = rest.filter((name) => !unneeded(name));
  const problems = [
    ["are missing", missing],
    ["are not known", unknown],
    ["are of another shape", wrong],
  ] as const;
  const found = problems.filter(([, names]) => names.length > 0);
  if (found.length > 0) {
    const lists = found.map(([title, names]) => `${names.length} weights ${title}:\n${indented(names)}`);
    throw new UserError(
      `${what} is no checkpoint of Stable Diffusion ${family ?? ""} that can be read.\n${lists.join("\n")}`,
    );
  }
  return {
    family,
    parts,
    scheduler: family && schedulerOf(family, weights, { options, unet: parts.unet!, notes }),
    unused: rest,
    notes,
  };
}

function build(className: OriginalComponent["className"], config: Config): Weighted {
  switch (className) {
    case "UNet2DConditionModel":
      return unet2dCondition(config);
    case "AutoencoderKL":
      return autoencoderKL(config);
    case "CLIPTextModel":
      return clipText(config);
    case "CLIPTextModelWithProjection":
      return clipTextWithProjection(config);
  }
}

function placesOf(
  part: OriginalPart,
  names: readonly string[],
  has: (name: string) => boolean,
): ReadonlyMap<string, OriginalPlace> {
  if (part === "unet") return places(originalUNetNames(names));
  if (part === "vae") return places(originalVaeNames(names));
  if (has("ln_final.weight")) return openClipPlaces(names);
  // OpenAI's encoder keeps the names of transformers, in the oldest files without their first part.
  const bare = !has("text_model.final_layer_norm.weight");
  return places(new Map(names.map((name) => [name, bare ? name.replace(/^text_model\./, "") : name])));
}

function places(names: ReadonlyMap<string, string>): Map<string, OriginalPlace> {
  return new Map([...names].map(([name, original]) => [name, { name: original }]));
}

/** The part of a stored weight that a parameter is; undefined where it cannot be cut so. */
function pieceOf(stored: StoredWeight, { third, transposed }: OriginalPlace): StoredWeight | undefined {
  if (transposed) {
    const [rows, columns] = stored.shape;
    return stored.shape.length === 2 ? { ...stored, shape: [columns!, rows!], transposed: true } : undefined;
  }
  if (third === undefined) return stored;
  const [rows = 0, ...rest] = stored.shape;
  if (rows % 3 !== 0) return undefined;
  const shape = [rows / 3, ...rest];
  const count = sizeOf(shape);
  if ("data" in stored) {
    return { dtype: stored.dtype, shape, data: stored.data.subarray(third * count, (third + 1) * count) as never };
  }
  const length = count * bytesPerElement(stored.dtype);
  return { ...stored, shape, offset: stored.offset + third * length, length };
}

function schedulerOf(
  family: OriginalFamily,
  weights: WeightSource,
  about: { readonly options: OriginalOptions; readonly unet: OriginalComponent; readonly notes: string[] },
): Config {
  const { prediction } = about.options;
  const { in_channels: inputs, time_cond_proj_dim: told } = about.unet.config;
  // Stability's v2-inpainting-inference.yaml gives no parameterization, which is epsilon there.
  const ofTwo = family === "2.x" && inputs !== INPAINTING_INPUTS;
  if (prediction === undefined && ofTwo) {
    about.notes.push(
      'A file of Stable Diffusion 2.x does not say what it predicts; taken is v_prediction (768). For the 512-base models give `prediction: "epsilon"`, --prediction epsilon.',
    );
  }
  // Marks that trainers of XL variants leave in the file.
  const marked = weights.get("v_pred") ? "v_prediction" : "epsilon";
  return originalSchedulerConfig(family, {
    prediction: prediction ?? (ofTwo ? "v_prediction" : marked),
    zeroSnr: weights.get("ztsnr") !== undefined,
    consistency: typeof told === "number",
  });
}

/** Channels that the U-Net of an inpainting model takes: latents, the mask, and the latents of what is kept. */
const INPAINTING_INPUTS = 9;

function noOriginal(weights: WeightSource, what: string): UserError {
  const names = [...weights.keys()];
  const has = (pattern: RegExp) => names.some((name) => pattern.test(name));
  const kind = has(/^(model\.diffusion_model\.)?joint_blocks\./)
    ? "an original checkpoint of Stable Diffusion 3"
    : has(/^(model\.diffusion_model\.)?double_blocks\./)
      ? "an original checkpoint of Flux"
      : has(/\.lora_[AB]\.|\.lora_(up|down)\.|\.lora\.(up|down)\./)
        ? "a LoRA, not a model"
        : has(/^(down_blocks|encoder\.down_blocks|text_model|transformer_blocks)\./)
          ? "a component in the naming of diffusers or transformers, which needs its config.json beside it"
          : undefined;
  return new UserError(
    kind
      ? `${what} is ${kind}; single files of Stable Diffusion 1.x, 2.x and XL are read.`
      : `${what} is no checkpoint of Stable Diffusion: its names begin with ${names.slice(0, 3).join(", ")}.`,
    { hint: "A model in diffusers' layout is given as its folder." },
  );
}
