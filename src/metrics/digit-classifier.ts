import { fileURLToPath } from "node:url";
import type { z } from "zod";
import { UserError } from "../core/errors.ts";
import { describeShape, type HostTensor } from "../core/host-tensor.ts";
import { input, silu, softmax, type Tensor, toOnnx } from "../graph/index.ts";
import { count, counts, readConfig } from "../models/config.ts";
import { bindWeights, type Config } from "../models/index.ts";
import { linear, module } from "../nn/index.ts";
import { inferenceTarget, openSession, type SessionOptions } from "../runtime/index.ts";
import { halvingStages } from "./halving-stages.ts";
import { readNetworkFolder, runInBatches } from "./network-folder.ts";

export const DIGIT_CLASSIFIER = "DigitClassifier";

const fields = {
  /** Height and width of the images. */
  image_size: count().default(32),
  /** Channels of the stages, each of which halves the image. */
  channels: counts().default([32, 64, 96]),
  groups: count().default(8),
  /** Width of the last layer before the classes. */
  features: count().default(64),
  classes: count().default(10),
};

export type DigitClassifierConfig = z.output<z.ZodObject<typeof fields>>;

/**
 * A small convolutional network for gray digits: stages of a convolution with stride 2, group normalization and SiLU,
 * then a linear layer with SiLU, whose values are the features, and one to the classes.
 */
export function digitClassifierNetwork(given: Config = {}) {
  const { architectures: _, ...own } = given;
  const config = readConfig(DIGIT_CLASSIFIER, fields, own);
  const { features, classes } = config;
  const stages = halvingStages(1, config);
  const parts = {
    ...stages.parts,
    feature: linear(stages.width, features),
    head: linear(features, classes),
  };
  /** Images [n, 1, h, w] in [−1, 1] → features [n, features] and logits [n, classes]. */
  const network = module(parts, (images: Tensor) => {
    const hidden = silu(parts.feature(stages(images)));
    return { features: hidden, logits: parts.head(hidden) };
  });
  return Object.assign(network, { config: config as DigitClassifierConfig });
}

/** What the classifier says of n images. */
export interface Classification {
  /** [n, classes] */
  readonly probabilities: HostTensor<"float32">;
  /** [n, features] */
  readonly features: HostTensor<"float32">;
}

/** A classifier ready to run. */
export interface DigitClassifier {
  readonly config: DigitClassifierConfig;
  /** Images [n, 1, height, width] in [−1, 1]; n may be any number. UserError for other shapes. */
  classify(images: HostTensor<"float32">): Promise<Classification>;
  close(): Promise<void>;
}

/** The classifier that comes with the package; it lies beside `src` as well as beside what is compiled from it. */
const SHIPPED = new URL("../../models/digit-classifier/", import.meta.url);

export interface DigitClassifierOptions extends Pick<SessionOptions, "threads" | "device"> {
  /** Images a run of the network. */
  readonly batch?: number;
}

/**
 * Opens a digit classifier: by default the one that comes with the package, trained on the MNIST digits padded to 32×32.
 *
 * @throws UserError when the folder holds no such classifier
 */
export async function openDigitClassifier(
  folder: string = fileURLToPath(SHIPPED),
  { batch = 64, threads, device }: DigitClassifierOptions = {},
): Promise<DigitClassifier> {
  const { config: given, stored } = await readNetworkFolder(folder, DIGIT_CLASSIFIER);
  const network = digitClassifierNetwork(given);
  const { image_size: size, classes, features: width } = network.config;
  const { features, logits } = network(input("images", [batch, 1, size, size]));
  const model = toOnnx(
    { features, probabilities: softmax(logits) },
    { bind: bindWeights(network, stored, { what: folder }), target: inferenceTarget(device) },
  );
  const session = await openSession(model.bytes, { name: "digit classifier", threads, device });

  return {
    config: network.config,
    async classify(images) {
      if (describeShape(images.shape.slice(1)) !== describeShape([1, size, size])) {
        throw new UserError(
          `Images of shape ${describeShape(images.shape)} were given; the classifier takes [n, 1, ${size}, ${size}].`,
        );
      }
      return runInBatches(session, "images", images, batch, { features: width, probabilities: classes });
    },
    close: () => session.close(),
  };
}
