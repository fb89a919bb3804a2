import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { describeShape, type HostTensor, hostTensor } from "../core/host-tensor.ts";
import { input, silu, type Tensor, toOnnx } from "../graph/index.ts";
import { openTokenizer, type TextTokenizer } from "../io/index.ts";
import { count, counts, readConfig } from "../models/config.ts";
import { bindWeights, type Config, clipTextWithProjection } from "../models/index.ts";
import { linear, module, namedParameters, parameter } from "../nn/index.ts";
import { inferenceTarget, openSession, type SessionOptions } from "../runtime/index.ts";
import { unitLength } from "./contrastive-loss.ts";
import { halvingStages } from "./halving-stages.ts";
import { readNetworkFolder, runInBatches } from "./network-folder.ts";

export const CAPTION_RETRIEVAL = "CaptionRetrieval";

const fields = {
  /** Height and width of the pictures. */
  image_size: count().default(64),
  /** Channels of the picture tower's stages, each of which halves the picture. */
  channels: counts().default([32, 64, 128, 128]),
  groups: count().default(8),
  /** Width of the picture tower's last layer, whose values are its features. */
  features: count().default(96),
  /** Width of the space that pictures and captions share. */
  projection_dim: count().default(64),
  /** The text tower's configuration, as of a `CLIPTextModelWithProjection`. */
  text_config: z.record(z.string(), z.unknown(), "an object is needed").default({}),
};

/** CLIP starts with the temperature 0.07 (Radford et al. 2021, section 2.5). */
const FIRST_LOGIT_SCALE = Math.log(1 / 0.07);

/**
 * Two small towers that lead pictures and captions into one space (CLIP: Radford et al. 2021). Pictures go through halving
 * stages, then a linear layer with SiLU, whose values are the
 * features; captions through CLIP's text transformer. Parameters have the names of transformers' `CLIPModel`, the
 * convolutions aside.
 */
export function captionRetrievalNetwork(given: Config = {}) {
  const { architectures: _, ...own } = given;
  const read = readConfig(CAPTION_RETRIEVAL, fields, own);
  const { features: width, projection_dim } = read;
  const text = clipTextWithProjection({ ...read.text_config, projection_dim });
  const stages = halvingStages(3, read);
  const vision = { ...stages.parts, feature: linear(stages.width, width) };
  const parts = {
    vision_model: module(vision, (pictures: Tensor) => silu(vision.feature(stages(pictures)))),
    visual_projection: linear(width, projection_dim, { bias: false, initial: width ** -0.5 }),
    ...text.parts,
    logit_scale: parameter([], { kind: "constant", value: FIRST_LOGIT_SCALE }),
  };
  const towers = {
    /** Pictures [n, 3, h, w] in [−1, 1] → features [n, features] and the place in the space [n, projection_dim]. */
    picture(pictures: Tensor) {
      const features = parts.vision_model(pictures);
      return { features, embedding: unitLength(parts.visual_projection(features)) };
    },
    /** Token ids [n, tokens] → the place in the space [n, projection_dim]. */
    caption: (ids: Tensor) => unitLength(text(ids).pooled),
    config: { ...read, text_config: text.config },
  };
  namedParameters({ parts });
  return { parts, ...towers };
}

/** The towers' configuration as it is saved. */
export type CaptionRetrievalConfig = ReturnType<typeof captionRetrievalNetwork>["config"];

/** What the picture tower says of n pictures. */
export interface SeenPictures {
  /** [n, features] */
  readonly features: HostTensor<"float32">;
  /** [n, projection_dim], of unit length: the scalar product with a caption's is their similarity. */
  readonly embeddings: HostTensor<"float32">;
}

/** Two towers ready to run. */
export interface CaptionRetrieval {
  readonly config: CaptionRetrievalConfig;
  readonly tokenizer: TextTokenizer;
  /** Pictures [n, 3, size, size] in [−1, 1]; n may be any number. UserError for other shapes. */
  see(pictures: HostTensor<"float32">): Promise<SeenPictures>;
  /** [captions, projection_dim] of unit length. UserError for a caption with more tokens than the tower takes. */
  read(captions: readonly string[]): Promise<HostTensor<"float32">>;
  close(): Promise<void>;
}

/** The model that comes with the repository; it lies beside `src` as well as beside what is compiled from it. */
const SHIPPED = new URL("../../models/emoji-retrieval/", import.meta.url);

export interface CaptionRetrievalOptions extends Pick<SessionOptions, "threads" | "device"> {
  /** Pictures or captions a run of a tower. */
  readonly batch?: number;
}

/**
 * Opens a retrieval model: by default the one that comes with the repository, trained on emoji of 64×64 pixels with their
 * names. Its folder holds config.json, the weights, and the vocabulary in `tokenizer/`.
 *
 * @throws UserError when the folder holds no such model
 */
export async function openCaptionRetrieval(
  folder: string = fileURLToPath(SHIPPED),
  { batch = 50, threads, device }: CaptionRetrievalOptions = {},
): Promise<CaptionRetrieval> {
  const { config: given, stored } = await readNetworkFolder(folder, CAPTION_RETRIEVAL);
  const tokenizer = await openTokenizer(join(folder, "tokenizer"));
  const network = captionRetrievalNetwork(given);
  const { config } = network;
  const { image_size: size, features: width, projection_dim: embedding } = config;
  const tokens = config.text_config.max_position_embeddings;
  const bind = bindWeights(network, stored, { what: folder });
  const open = (outputs: Record<string, Tensor>, name: string) =>
    openSession(toOnnx(outputs, { bind, target: inferenceTarget(device) }).bytes, { name, threads, device });
  const seen = network.picture(input("pictures", [batch, 3, size, size]));
  const [pictureTower, captionTower] = await Promise.all([
    open({ features: seen.features, embeddings: seen.embedding }, "picture tower"),
    open({ embeddings: network.caption(input("ids", [batch, tokens], "int64")) }, "caption tower"),
  ]);

  return {
    config,
    tokenizer,
    async see(pictures) {
      if (describeShape(pictures.shape.slice(1)) !== describeShape([3, size, size])) {
        throw new UserError(
          `Pictures of shape ${describeShape(pictures.shape)} were given; the model takes [n, 3, ${size}, ${size}].`,
        );
      }
      return runInBatches(pictureTower, "pictures", pictures, batch, { features: width, embeddings: embedding });
    },
    async read(captions) {
      const ids = tokenIds(tokenizer, captions, tokens);
      const { embeddings } = await runInBatches(captionTower, "ids", ids, batch, { embeddings: embedding });
      return embeddings;
    },
    async close() {
      await Promise.all([pictureTower.close(), captionTower.close()]);
    },
  };
}

/**
 * Captions as ids, padded: [captions, tokens].
 *
 * @throws UserError for a caption that is longer
 */
export function tokenIds(
  tokenizer: Pick<TextTokenizer, "encodePadded">,
  captions: readonly string[],
  tokens: number,
): HostTensor<"int64"> {
  const ids = captions.flatMap((caption) => {
    const encoded = tokenizer.encodePadded(caption, tokens);
    if (encoded.dropped !== "") {
      throw new UserError(`The caption "${caption}" has ${encoded.tokens} tokens; at most ${tokens} are accepted.`, {
        hint: "Shorten it.",
        field: "captions",
      });
    }
    return encoded.ids;
  });
  return hostTensor("int64", [captions.length, tokens], BigInt64Array.from(ids, BigInt));
}
