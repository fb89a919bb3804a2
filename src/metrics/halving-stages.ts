import { UserError } from "../core/errors.ts";
import { reshape, silu, type Tensor } from "../graph/index.ts";
import { conv2d, groupNorm, module } from "../nn/index.ts";

export interface HalvingStages {
  /** Height and width of the images. */
  readonly image_size: number;
  /** Channels of the stages. */
  readonly channels: readonly number[];
  readonly groups: number;
}

/**
 * Stages that each halve an image: a convolution with stride 2 (5×5 in the first, then 3×3), group normalization and SiLU.
 * Images [n, inputs, h, w] → [n, width], everything that is left of them in one row.
 *
 * @throws UserError for a size that cannot be halved so often
 */
export function halvingStages(inputs: number, { image_size: size, channels, groups }: HalvingStages) {
  const smallest = size / 2 ** channels.length;
  if (!Number.isInteger(smallest)) {
    throw new UserError(`Images of ${size}×${size} cannot be halved ${channels.length} times.`, {
      hint: `Take a multiple of ${2 ** channels.length}, or fewer channels.`,
      field: "image_size",
    });
  }
  const width = channels.at(-1)! * smallest * smallest;
  const parts = {
    convs: channels.map((outputs, i) =>
      i === 0
        ? conv2d(inputs, outputs, { kernel: 5, stride: 2, padding: 2 })
        : conv2d(channels[i - 1]!, outputs, { stride: 2, padding: 1 }),
    ),
    norms: channels.map((outputs) => groupNorm(groups, outputs)),
  };
  const stages = module(parts, (images: Tensor) => {
    let h = images;
    parts.convs.forEach((conv, i) => {
      h = silu(parts.norms[i]!(conv(h)));
    });
    return reshape(h, [images.shape[0]!, width]);
  });
  return Object.assign(stages, { width });
}
