import { fileURLToPath } from "node:url";
import type { z } from "zod";
import { UserError } from "../core/errors.ts";
import { describeShape, float32, type HostTensor } from "../core/host-tensor.ts";
import { input, reshape, silu, softmax, type Tensor, toOnnx } from "../graph/index.ts";
import { readModelFolder } from "../io/index.ts";
import { count, counts, readConfig } from "../models/config.ts";
import { bindWeights, type Config } from "../models/index.ts";
import { conv2d, groupNorm, linear, module } from "../nn/index.ts";
import { inferenceTarget, openSession, type SessionOptions } from "../runtime/index.ts";

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
  const { image_size: size, channels, groups, features, classes } = config;
  const smallest = size / 2 ** channels.length;
  if (!Number.isInteger(smallest)) {
    throw new UserError(`Images of ${size}×${size} cannot be halved ${channels.length} times.`, {
      hint: `Take a multiple of ${2 ** channels.length}, or fewer channels.`,
      field: "image_size",
    });
  }
  const flat = channels.at(-1)! * smallest * smallest;
  const parts = {
    convs: channels.map((outputs, i) =>
      i === 0
        ? conv2d(1, outputs, { kernel: 5, stride: 2, padding: 2 })
        : conv2d(channels[i - 1]!, outputs, { stride: 2, padding: 1 }),
    ),
    norms: channels.map((outputs) => groupNorm(groups, outputs)),
    feature: linear(flat, features),
    head: linear(features, classes),
  };
  /** Images [n, 1, h, w] in [−1, 1] → features [n, features] and logits [n, classes]. */
  const network = module(parts, (images: Tensor) => {
    let h = images;
    parts.convs.forEach((conv, i) => {
      h = silu(parts.norms[i]!(conv(h)));
    });
    const hidden = silu(parts.feature(reshape(h, [images.shape[0]!, flat])));
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
  const { className, config: given, weights } = await readModelFolder(folder);
  if (className !== DIGIT_CLASSIFIER) {
    throw new UserError(`${folder} is a model of class ${className ?? "unknown"}; ${DIGIT_CLASSIFIER} is needed.`);
  }
  const network = digitClassifierNetwork(given);
  const names = [...weights.tensors.keys()];
  const stored = new Map(await Promise.all(names.map(async (name) => [name, await weights.read(name)] as const)));
  const { image_size: size, classes, features: width } = network.config;
  const { features, logits } = network(input("images", [batch, 1, size, size]));
  const model = toOnnx(
    { features, probabilities: softmax(logits) },
    { bind: bindWeights(network, stored, { what: folder }), target: inferenceTarget(device) },
  );
  const session = await openSession(model.bytes, { name: "digit classifier", threads, device });
  const pixels = size * size;

  return {
    config: network.config,
    async classify({ shape, data }) {
      const n = shape[0] ?? 0;
      if (describeShape(shape.slice(1)) !== describeShape([1, size, size])) {
        throw new UserError(
          `Images of shape ${describeShape(shape)} were given; the classifier takes [n, 1, ${size}, ${size}].`,
        );
      }
      const result = {
        probabilities: float32([n, classes], new Float32Array(n * classes)),
        features: float32([n, width], new Float32Array(n * width)),
      };
      for (let first = 0; first < n; first += batch) {
        const here = Math.min(batch, n - first);
        const images = new Float32Array(batch * pixels); // the last one is filled up with zeros
        images.set(data.subarray(first * pixels, (first + here) * pixels));
        const said = await session.run({ images: float32([batch, 1, size, size], images) });
        for (const name of ["probabilities", "features"] as const) {
          const columns = result[name].shape[1]!;
          const rows = said[name]!.data.subarray(0, here * columns) as Float32Array;
          result[name].data.set(rows, first * columns);
        }
      }
      return result;
    },
    close: () => session.close(),
  };
}
