import { float32, type HostTensor } from "../core/host-tensor.ts";

/** Channels back to squares of `side` × `side` pixels, as torch.nn.functional.pixel_shuffle: [n, c·side², h, w] → [n, c, h·side, w·side]. */
export function assemblePatches(x: HostTensor<"float32">, side: number): HostTensor<"float32"> {
  if (side === 1) return x;
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const channels = c / (side * side);
  const out = new Float32Array(x.data.length);
  let from = 0;
  for (let image = 0; image < n; image++) {
    for (let channel = 0; channel < c; channel++) {
      const [top, left] = [Math.floor((channel % (side * side)) / side), channel % side];
      const plane = (image * channels + Math.floor(channel / (side * side))) * h * w * side * side;
      for (let row = 0; row < h; row++) {
        for (let column = 0; column < w; column++) {
          out[plane + (row * side + top) * w * side + column * side + left] = x.data[from++]!;
        }
      }
    }
  }
  return float32([n, channels, h * side, w * side], out);
}

/** Squares of `side` × `side` pixels to channels, what `assemblePatches` undoes: [n, c, h·side, w·side] → [n, c·side², h, w]. */
export function splitPatches(x: HostTensor<"float32">, side: number): HostTensor<"float32"> {
  if (side === 1) return x;
  const [n, c, height, width] = x.shape as [number, number, number, number];
  const [h, w] = [height / side, width / side];
  const out = new Float32Array(x.data.length);
  let to = 0;
  for (let plane = 0; plane < n * c; plane++) {
    for (let within = 0; within < side * side; within++) {
      const [top, left] = [Math.floor(within / side), within % side];
      for (let row = 0; row < h; row++) {
        for (let column = 0; column < w; column++) {
          out[to++] = x.data[(plane * height + row * side + top) * width + column * side + left]!;
        }
      }
    }
  }
  return float32([n, c * side * side, h, w], out);
}
