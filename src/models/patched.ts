import { UserError } from "../core/errors.ts";
import type { Tensor } from "../graph/index.ts";
import { fromPatches, toPatches } from "../nn/patches.ts";

/**
 * A network of images made of one that sees every square of `side` × `side` pixels as one pixel with side² times the
 * channels.
 *
 * @param network called with [n, c·side², h/side, w/side]
 * @returns takes and gives [n, c, h, w]
 * @throws UserError for heights and widths that `side` does not divide
 */
export function patched<Rest extends readonly unknown[]>(
  network: (x: Tensor, ...rest: Rest) => Tensor,
  side: number,
): (x: Tensor, ...rest: Rest) => Tensor {
  return (x, ...rest) => {
    const [height, width] = x.shape.slice(2) as [number, number];
    if (height % side !== 0 || width % side !== 0) {
      throw new UserError(`A network of ${side}×${side} patches does not take images of ${height}×${width} pixels.`, {
        hint: `Give a height and width that are multiples of ${side}.`,
        field: "size",
      });
    }
    return fromPatches(network(toPatches(x, side), ...rest), side);
  };
}
