import { createHash } from "node:crypto";
import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import type { Dataset } from "../data/index.ts";
import { readSafetensors, readSafetensorsHeader } from "../io/index.ts";
import {
  type Bind,
  bindWeights,
  linearName,
  type PerceptualDistance,
  perceptualDistance,
  SMALLEST_PERCEIVED,
  VGG16_WIDTHS,
} from "../models/index.ts";

/** A perceptual distance whose weights were read from files. */
export interface PerceptualJudge {
  readonly distance: PerceptualDistance;
  /** The weights, for the graphs that measure the distance. */
  readonly bind: Bind;
  /** A hash of the weights. */
  readonly fingerprint: string;
}

/** torchvision's names of each stage's first weights, whose shape tells the stage's width. */
const FIRST_OF_STAGE = [0, 5, 10, 17, 24].map((index) => `features.${index}.weight`);

/**
 * Reads the weights of a perceptual distance: VGG16's convolutions as torchvision names them, and where there are some (in
 * the same file or one of their own) the channels' weights of LPIPS.
 *
 * @throws UserError for a file that cannot be read or holds another network: it lists what is missing or does not fit
 */
export async function openPerceptualJudge(features: string, linear?: string): Promise<PerceptualJudge> {
  const weights = await weightsIn(features);
  if (linear !== undefined) for (const [name, weight] of await weightsIn(linear)) weights.set(name, weight);
  const distance = perceptualDistance({
    widths: VGG16_WIDTHS.map((width, stage) => weights.get(FIRST_OF_STAGE[stage]!)?.shape[0] ?? width),
    linear: linear !== undefined || weights.has(linearName(0)),
  });
  const bind = bindWeights(distance, weights, {
    what: linear === undefined ? features : `${features} with ${linear}`,
    hint: `The convolutions of VGG16 are needed as torchvision names them (features.0.weight … features.28.bias), and for LPIPS ${linearName(0)} … ${linearName(4)}.`,
  });
  return { distance, bind, fingerprint: hashOf(weights) };
}

/** UserError for pictures too small for the features of a perceptual distance. */
export function requirePerceivable({ name, height, width }: Pick<Dataset, "name" | "height" | "width">): void {
  if (Math.min(height, width) >= SMALLEST_PERCEIVED) return;
  throw new UserError(
    `The perceptual distance needs pictures of at least ${SMALLEST_PERCEIVED} pixels; those of ${name} have ${width}×${height}.`,
    { hint: "Leave perceptual out, or take larger pictures (size).", field: "perceptual" },
  );
}

/** The tensors of a file, without a classifier, which may be most of it. */
async function weightsIn(path: string): Promise<Map<string, HostTensor>> {
  const { tensors } = await readSafetensorsHeader(path);
  const { storedName } = perceptualDistance();
  return readSafetensors(
    path,
    [...tensors.keys()].filter((name) => storedName(name) !== null),
  );
}

function hashOf(weights: ReadonlyMap<string, HostTensor>): string {
  const hash = createHash("sha256");
  for (const [name, { dtype, shape, data }] of [...weights].sort(([a], [b]) => (a < b ? -1 : 1))) {
    hash.update(JSON.stringify([name, dtype, shape]));
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex");
}
