import { reshape, type Tensor, transpose } from "../graph/index.ts";

/**
 * Squares of `side` × `side` pixels as channels: [n, c, h, w] → [n, c·side², h/side, w/side], channels in the order of
 * torch.nn.functional.pixel_unshuffle.
 */
export function toPatches(x: Tensor, side: number): Tensor {
  if (side === 1) return x;
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const split = reshape(x, [n, c, h / side, side, w / side, side]);
  return reshape(transpose(split, [0, 1, 3, 5, 2, 4]), [n, c * side * side, h / side, w / side]);
}
