import { Matrix, solve } from "ml-matrix";
import type { Samples } from "../../diffusion/index.ts";
import type { Colours } from "./preview.ts";

/** How latents look, known better with each picture that was decoded. */
export interface MeasuredColours {
  /** Undefined where nothing is known yet. */
  current(): Colours | undefined;
  /** Takes latents [n, channels, h, w] and what the autoencoder made of them, [n, 3, H, W] in −1 … 1. */
  learn(latents: Samples, decoded: Samples): void;
}

/** How many latent pixels what is published counts as: less than one small picture has. */
const PRIOR = 16;

/**
 * A linear fit of pictures to latents by least squares, of the autoencoder at hand and the pictures that it decoded: for each
 * latent pixel the mean colour of the pixels it became. It begins with what is published of the autoencoder, if anything
 * is, and leaves that the more the more was seen (ridge regression towards it, Hoerl and Kennard 1970).
 */
export function measuredColours(published: Colours | undefined): MeasuredColours {
  let current = published;
  // Sums of products of latents (with a 1 for the offset) with themselves and with colours.
  let squares: Float64Array | undefined;
  let products: Float64Array | undefined;
  return {
    current: () => current,
    learn(latents, decoded) {
      const [n = 1, channels = 1, h = 1, w = 1] = latents.shape;
      const size = channels + 1;
      const known = published?.channels.length === channels ? published : undefined;
      squares ??= new Float64Array(size * size);
      products ??= new Float64Array(size * 3);
      const colours = shrunk(decoded, h, w);
      const plane = h * w;
      const row = new Float64Array(size).fill(1);
      for (let picture = 0; picture < n; picture++) {
        for (let i = 0; i < plane; i++) {
          for (let c = 0; c < channels; c++) row[c] = latents.data[(picture * channels + c) * plane + i]!;
          for (let a = 0; a < size; a++) {
            for (let b = 0; b < size; b++) squares[a * size + b]! += row[a]! * row[b]!;
            for (let rgb = 0; rgb < 3; rgb++) {
              products[a * 3 + rgb]! += row[a]! * colours[(picture * 3 + rgb) * plane + i]!;
            }
          }
        }
      }
      const left = Matrix.from1DArray(size, size, squares).add(Matrix.eye(size).mul(PRIOR));
      const right = Matrix.from1DArray(size, 3, products);
      if (known) right.add(new Matrix([...known.channels, known.offset].map((colour) => [...colour])).mul(PRIOR));
      const [...rows] = solve(left, right).to2DArray() as [number, number, number][];
      const offset = rows.pop()!;
      current = { channels: rows, offset };
    },
  };
}

/** [n, 3, H, W] by means over rectangles to [n, 3, h, w]. */
function shrunk({ shape, data }: Samples, h: number, w: number): Float64Array {
  const [n = 1, , height = 1, width = 1] = shape;
  const [down, along] = [height / h, width / w];
  const small = new Float64Array(n * 3 * h * w);
  for (let plane = 0; plane < n * 3; plane++) {
    for (let y = 0; y < height; y++) {
      const to = (plane * h + Math.floor(y / down)) * w;
      const from = (plane * height + y) * width;
      for (let x = 0; x < width; x++) small[to + Math.floor(x / along)]! += data[from + x]! / (down * along);
    }
  }
  return small;
}
