import { createHash } from "node:crypto";
import { dirname, relative, sep } from "node:path";
import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { type SchedulerConfig, type TrainedFor, trainedFor } from "../diffusion/index.ts";
import {
  type ChosenVariants,
  chosenVariants,
  convertFloat,
  type HubOptions,
  type ModelFolder,
  type ModelWeights,
  modelFolder,
  type PipelineFolder,
  readModelFolder,
  readPipelineFolder,
  readSchedulerConfig,
  type TextTokenizer,
} from "../io/index.ts";
import {
  bindWeights,
  type ClipText,
  clipText,
  matchWeights,
  type StoredWeight,
  type UNet2DCondition,
  unet2dCondition,
} from "../models/index.ts";
import { namedParameters } from "../nn/module.ts";
import { encoderFingerprint, openFrozenEncoder } from "./frozen-encoder.ts";
import type { FixedWeights } from "./task.ts";

/** The networks of a model that can learn, by the names of their folders. */
export const LEARNING_PARTS = ["unet", "text_encoder"] as const;
export type LearningPart = (typeof LEARNING_PARTS)[number];

/** A Stable Diffusion folder that is to be trained further; weights are read when they are needed. */
export interface BaseModel {
  readonly path: string;
  readonly pipeline: PipelineFolder;
  readonly unet: UNet2DCondition;
  readonly textEncoder: ClipText;
  readonly stored: Readonly<Record<LearningPart, ModelFolder>>;
  readonly tokenizer: TextTokenizer;
  /** Tokens of a prompt, start and end included. */
  readonly maxLength: number;
  readonly scheduler: SchedulerConfig;
  readonly trainedFor: TrainedFor;
  /** The autoencoder's folder. */
  readonly vae: string;
  /** Which weights are read of each of its folders, where a variant was asked for. */
  readonly variants: ChosenVariants;
  /** Tells models apart: of configurations, tokenizer and the beginnings of all weights. */
  readonly fingerprint: string;
  /** The names of all parameters of a network, beginning with its own. */
  names(part: LearningPart): string[];
  /** Where the weights of some of the networks lie. */
  fixed(parts: readonly LearningPart[]): FixedWeights;
  /** The numbers of parameters, by names that begin with those of their networks. */
  read(names: Iterable<string>): Promise<Map<string, HostTensor<"float32">>>;
}

/**
 * Opens a `StableDiffusionPipeline` folder, or such a model of the hub, for fine-tuning.
 * @throws UserError for other models: of SDXL, inpainting and distilled networks, and for parts that are missing
 */
export async function openBaseModel(
  model: string,
  options: Pick<HubOptions, "variant" | "revision" | "signal"> = {},
): Promise<BaseModel> {
  const path = await modelFolder(model, options);
  const pipeline = await readPipelineFolder(path, { needs: ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] });
  const at = (name: string) => pipeline.components.get(name)!.path;
  const variants = await chosenVariants(["unet", "text_encoder", "vae"].map(at), options.variant);
  const read = (name: string) => readModelFolder(at(name), { variant: variants.of(at(name)) });
  const stored = { unet: await read("unet"), text_encoder: await read("text_encoder") };
  requireStableDiffusion(path, pipeline, stored);
  const unet = unet2dCondition(stored.unet.config);
  requirePlain(path, unet);
  const textEncoder = clipText(stored.text_encoder.config);
  const networks = { unet, text_encoder: textEncoder };
  const { encoder, tokenizer } = await openFrozenEncoder(path, { variant: variants.of(at("text_encoder")) });
  const positions = textEncoder.config.max_position_embeddings;
  const maxLength = Math.min(tokenizer.maxLength ?? positions, positions);
  const scheduler = (await readSchedulerConfig(at("scheduler"))) as SchedulerConfig;
  const hash = createHash("sha256").update(await encoderFingerprint(encoder, tokenizer, maxLength));
  // The same way of telling networks apart.
  const described = { ...encoder, config: unet.config, weights: stored.unet.weights };
  hash.update(await encoderFingerprint(described, tokenizer, maxLength)).update(JSON.stringify(scheduler));

  return {
    ...{ path, pipeline, unet, textEncoder, stored, tokenizer, maxLength, scheduler, variants },
    trainedFor: trainedFor(scheduler),
    vae: at("vae"),
    fingerprint: hash.digest("hex"),
    names: (part) => [...namedParameters(networks[part]).keys()].map((name) => `${part}.${name}`),
    fixed(parts) {
      const folder = commonFolder(parts.map((part) => stored[part].weights));
      const binds = parts.map((part) => {
        const { weights, path: what } = stored[part];
        return bindWeights(networks[part], placedIn(folder, weights), { what });
      });
      return {
        externalData: folder,
        bind: (leaf) => {
          for (const bind of binds) {
            const found = bind(leaf);
            if (found) return found;
          }
          return undefined;
        },
      };
    },
    async read(names) {
      const wanted = new Set(names);
      const values = new Map<string, HostTensor<"float32">>();
      for (const part of LEARNING_PARTS) {
        const { weights, path: what } = stored[part];
        const placed = placedIn(commonFolder([weights]), weights);
        for (const [name, { parameter, storedName }] of matchWeights(networks[part], placed, { what })) {
          if (!wanted.has(`${part}.${name}`)) continue;
          const read = convertFloat(await weights.read(storedName), "float32") as HostTensor<"float32">;
          values.set(`${part}.${name}`, { ...read, shape: parameter.shape });
        }
      }
      return values;
    },
  };
}

/** The folder that holds all files of several models: one session can read them all from there. */
function commonFolder(all: readonly ModelWeights[]): string {
  const folders = all.flatMap(({ files }) => files.map((file) => dirname(file).split(sep)));
  const shared = folders.reduce((common, parts) => {
    const end = common.findIndex((part, i) => part !== parts[i]);
    return end < 0 ? common : common.slice(0, end);
  });
  return shared.join(sep) || sep;
}

/** Where in that folder each weight lies. */
function placedIn(folder: string, { tensors }: ModelWeights): Map<string, StoredWeight> {
  return new Map(
    [...tensors].map(([name, { dtype, shape, offset, length, path }]) => {
      const file = relative(folder, path).split(sep).join("/");
      return [name, { dtype, shape, file, offset, length }] as const;
    }),
  );
}

function requireStableDiffusion(
  path: string,
  { className, components }: PipelineFolder,
  stored: Readonly<Record<LearningPart, ModelFolder>>,
): void {
  const wrong =
    stored.unet.className !== "UNet2DConditionModel"
      ? `a ${stored.unet.className}`
      : stored.text_encoder.className !== "CLIPTextModel"
        ? `a ${stored.text_encoder.className}`
        : components.has("text_encoder_2")
          ? "two text encoders"
          : undefined;
  if (wrong === undefined) return;
  throw new UserError(`${path} is a ${className} with ${wrong}; it cannot be fine-tuned.`, {
    hint: "Stable Diffusion 1.x and 2.x can: a UNet2DConditionModel with one CLIPTextModel.",
    field: "model",
  });
}

function requirePlain(path: string, { config }: UNet2DCondition): void {
  const { in_channels, out_channels, time_cond_proj_dim, addition_embed_type, class_embed_type, num_class_embeds } =
    config;
  const other =
    in_channels !== out_channels
      ? `takes ${in_channels} channels and gives ${out_channels}, as of inpainting`
      : time_cond_proj_dim !== null
        ? "is told the guidance, as a distilled one is"
        : addition_embed_type === "text_time"
          ? "is told sizes, as that of SDXL is"
          : class_embed_type !== null || num_class_embeds !== null
            ? "is told classes"
            : undefined;
  if (other === undefined) return;
  throw new UserError(`The U-Net of ${path} ${other}; it cannot be fine-tuned.`, { field: "model" });
}
