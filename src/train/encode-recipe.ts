import { z } from "zod";
import { UserError } from "../core/errors.ts";
import { validated } from "../core/validated.ts";
import { type JsonObject, readModelFolder } from "../io/index.ts";
import { dataFields } from "./data-fields.ts";
import { datasetOf } from "./dataset.ts";
import { type EncodeProgress, type EncodeResult, encodeDataset, recordScaling } from "./encode.ts";
import { runFields, whole } from "./run-options.ts";

/** Everything that encoding a data set can be told: the command line's flags and {@link encode}'s options. */
export const encodeSchema = z.strictObject({
  ...dataFields,
  size: dataFields.size.describe(
    "height and width that images are scaled and cut to (default: what the autoencoder was trained on)",
  ),
  flip: z.boolean().default(false).describe("encode the mirrored images too, for training to take either"),
  captions: z
    .enum(["auto", "sidecar", "metadata", "none"])
    .default("auto")
    .describe("where captions of a folder's images are: .txt files beside them, metadata.jsonl or .csv, or nowhere"),
  autoencoder: z.string().describe("folder of the AutoencoderKL"),
  variant: z.string().min(1).optional().describe("variant of the autoencoder's weights, such as fp16"),
  out: z.string().describe("folder of the latents; continues if it was begun"),
  scaling: z
    .enum(["auto", "config", "measured"])
    .default("auto")
    .describe(
      "factor of the latents: the autoencoder's (config), that which gives them deviation 1 (measured), or measured where the autoencoder's is 1 (auto)",
    ),
  shift: z.boolean().default(false).describe("with a measured factor: subtract the mean of the latents too"),
  writeScaling: z.boolean().default(false).describe("write the factor into the autoencoder's configuration"),
  batch: whole(1).optional().describe("images the encoder sees at once (default: by their size, 16 at most)"),
  shard: whole(1).default(512).describe("images a file; an interruption costs at most one"),
  device: runFields.device,
  threads: runFields.threads,
});

/** Options of {@link encode}, defaults left out. */
export type EncodeInput = z.input<typeof encodeSchema>;

/** How an encoding is watched and stopped. */
export interface EncodeControl {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: EncodeProgress) => void;
  /** Told what the data say of themselves before encoding begins. */
  readonly onWarning?: (warning: string) => void;
}

/**
 * Opens data and encodes them as `encodeDataset` does: what `allegory encode` does.
 *
 * @throws UserError for options, data or an autoencoder that cannot be used
 */
export async function encode(
  input: EncodeInput,
  { signal, onProgress, onWarning }: EncodeControl = {},
): Promise<EncodeResult> {
  const hint = "`allegory encode --help` lists every option with what it takes.";
  const options = validated(encodeSchema, input, { what: "The encoding", hint });
  const { config } = await readModelFolder(options.autoencoder, { variant: options.variant });
  const dataset = await datasetOf({ ...options, size: options.size ?? trainedSize(config) }, { signal });
  for (const warning of dataset.warnings) onWarning?.(warning);
  const result = await encodeDataset(dataset, { ...options, signal, onProgress });
  if (options.writeScaling) await recordScaling(options.autoencoder, result);
  return result;
}

/** The size of the images that an autoencoder was trained on, where its configuration says one that is square. */
function trainedSize({ sample_size: size }: JsonObject): number {
  if (typeof size === "number") return size;
  throw new UserError("The autoencoder does not say what size of images it was trained on.", {
    hint: "Give a size: --size 64.",
    field: "size",
  });
}
