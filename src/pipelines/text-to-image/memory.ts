import { totalmem } from "node:os";
import { UserError } from "../../core/errors.ts";
import { sizeOf } from "../../core/host-tensor.ts";
import { bytesPerRounded } from "../../models/index.ts";
import type { Part } from "../part-sessions.ts";
import type { TextToImageModel } from "./model.ts";

/** What a run takes, in bytes: networks in float32, and the largest states of one call. */
export interface MemoryEstimate {
  readonly weights: number;
  readonly states: number;
  readonly total: number;
}

export interface MemoryNeeds {
  /** Pictures at once. */
  readonly batch: number;
  readonly guided: boolean;
  /** Another model goes on with the latents. */
  readonly refined: boolean;
  /** [height, width] in pixels. */
  readonly size: readonly [number, number];
  readonly tile: number | undefined;
  readonly lowMemory: boolean;
  /** Bits of the linear layers of the denoising network and of T5. */
  readonly quantize?: 4 | 8;
}

const BYTES = 4;

/**
 * An estimate from below of what a run takes. Of the autoencoder: six pictures of its finest states, whose upper half is
 * twice as wide.
 */
export function memoryEstimate(model: TextToImageModel, needs: MemoryNeeds): MemoryEstimate {
  if (needs.refined && model.refiner) {
    const each = [model, model.refiner].map((one) => memoryEstimate(one, { ...needs, refined: false }));
    const [first, second] = each.map(({ weights }) => weights) as [number, number];
    const weights = needs.lowMemory ? Math.max(first, second) : first + second;
    const states = Math.max(...each.map((one) => one.states));
    return { weights, states, total: weights + states };
  }
  const { denoiser, vae, textEncoders, controlNet, factor, family } = model;
  const { batch, guided, size, tile, lowMemory, quantize } = needs;
  const [height, width] = size;
  const texts = textEncoders.reduce(
    (sum, { part, quantizable }) => sum + weightBytes(part, quantizable ? quantize : undefined),
    0,
  );
  const denoising = weightBytes(denoiser, quantize) + (controlNet ? weightBytes(controlNet) : 0);
  const parts = [texts, denoising, weightBytes(vae)];
  const weights = lowMemory ? Math.max(...parts) : parts.reduce((sum, one) => sum + one, 0);

  const n = batch * (guided ? 2 : 1);
  const ofDenoiser = family.states(n, [height / factor, width / factor]) * BYTES;
  const { config } = vae.network;
  const finest = (
    "encoder_block_out_channels" in config ? config.decoder_block_out_channels : config.block_out_channels
  ) as readonly number[];
  const pixels = tile ? Math.min(tile, height) * Math.min(tile, width) : height * width;
  const ofVae = 6 * finest[0]! * pixels * batch * BYTES;
  const states = Math.max(ofDenoiser, ofVae);
  return { weights, states, total: weights + states };
}

/** Throws a UserError for a run that cannot fit into the memory there is (`limit` in bytes; default: the machine's). */
export function mustFit(model: TextToImageModel, needs: MemoryNeeds, limit = availableMemory()): void {
  const { weights, states, total } = memoryEstimate(model, needs);
  if (total <= limit) return;
  const wishes = [
    ...(needs.lowMemory ? [] : ["open the model with `lowMemory`"]),
    ...(needs.batch > 1 ? ["lower `batch`"] : []),
    ...(needs.guided ? ["give `guidanceInTurn`"] : []),
    ...(states > weights / 4 ? ["draw smaller pictures", ...(needs.tile ? [] : ["give `vaeTile`"])] : []),
  ];
  throw new UserError(
    `This run takes at least ${gigabytes(total)} (${gigabytes(weights)} of weights); there are ${gigabytes(limit)}.`,
    { hint: wishes.length > 0 ? `To take less: ${wishes.join(", ")}.` : undefined, field: "memory" },
  );
}

function availableMemory(): number {
  const constrained = process.constrainedMemory?.() ?? 0;
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}

/** Of rounded weights each matrix counts: nearly all are linear layers'. */
function weightBytes({ weights }: Part, bits?: 4 | 8): number {
  const ofMatrices = bits ? bytesPerRounded({ bits }) : BYTES;
  const names = "bound" in weights ? [...weights.bound.keys()] : [...weights.tensors.keys()];
  return names.reduce((sum, name) => {
    const stored = "bound" in weights ? weights.bound.get(name) : weights.tensors.get(name);
    return sum + sizeOf(stored!.shape) * (stored!.shape.length === 2 ? ofMatrices : BYTES);
  }, 0);
}

function gigabytes(bytes: number): string {
  return bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
