import { UserError } from "../core/errors.ts";
import { describeShape, type HostTensor, sameShape } from "../core/host-tensor.ts";

type Images = HostTensor<"float32">;

/**
 * Peak signal-to-noise ratio of each image in decibels: 10·log₁₀(range² / mean squared error); infinite for equal images.
 *
 * @param images and their originals, [n, c, h, w]
 * @param range the largest possible difference of two values: 2 for images in [−1, 1]
 */
export function peakSignalToNoise(images: Images, originals: Images, range = 2): number[] {
  requireSame(images, originals);
  const n = images.shape[0]!;
  const size = images.data.length / n;
  return Array.from({ length: n }, (_, i) => {
    let squares = 0;
    for (let k = i * size; k < (i + 1) * size; k++) squares += (images.data[k]! - originals.data[k]!) ** 2;
    return 10 * Math.log10(range ** 2 / (squares / size));
  });
}

/** Deviation and half width of the Gaussian window of Wang et al. 2004. */
const DEVIATION = 1.5;
const REACH = 5;

/**
 * Structural similarity of each image (Wang et al. 2004, eq. 13): the mean over channels and over all windows of 11×11
 * pixels, weighted by a Gaussian of deviation 1.5, that lie inside the image; K₁ = 0.01, K₂ = 0.03.
 *
 * @param images and their originals, [n, c, h, w], at least 11 pixels high and wide
 * @param range the largest possible difference of two values
 */
export function structuralSimilarity(images: Images, originals: Images, range = 2): number[] {
  requireSame(images, originals);
  const [n, channels, height, width] = images.shape as [number, number, number, number];
  if (height <= 2 * REACH || width <= 2 * REACH) {
    throw new UserError(`Images of ${height}×${width} pixels have no window of ${2 * REACH + 1}×${2 * REACH + 1}.`);
  }
  const [c1, c2] = [(0.01 * range) ** 2, (0.03 * range) ** 2];
  const pixels = height * width;
  return Array.from({ length: n }, (_, i) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) {
      const at = (i * channels + c) * pixels;
      const x = Float64Array.from(images.data.subarray(at, at + pixels));
      const y = Float64Array.from(originals.data.subarray(at, at + pixels));
      const mean = (values: Float64Array) => windowMeans(values, height, width);
      const [mx, my] = [mean(x), mean(y)];
      const [xx, yy, xy] = [mean(times(x, x)), mean(times(y, y)), mean(times(x, y))];
      let similar = 0;
      for (let k = 0; k < mx.length; k++) {
        const [a, b] = [mx[k]!, my[k]!];
        const covariance = xy[k]! - a * b;
        const variances = xx[k]! - a * a + (yy[k]! - b * b);
        similar += ((2 * a * b + c1) * (2 * covariance + c2)) / ((a * a + b * b + c1) * (variances + c2));
      }
      sum += similar / mx.length;
    }
    return sum / channels;
  });
}

const WINDOW = (() => {
  const weights = Array.from({ length: 2 * REACH + 1 }, (_, k) => Math.exp(-((k - REACH) ** 2) / (2 * DEVIATION ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
})();

/** The weighted mean of every window that lies inside: along rows, then along columns. */
function windowMeans(values: Float64Array, height: number, width: number): Float64Array {
  const [inner, rows] = [width - 2 * REACH, height - 2 * REACH];
  const along = new Float64Array(height * inner);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < inner; x++) {
      let sum = 0;
      for (let k = 0; k < WINDOW.length; k++) sum += WINDOW[k]! * values[y * width + x + k]!;
      along[y * inner + x] = sum;
    }
  }
  const means = new Float64Array(rows * inner);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < inner; x++) {
      let sum = 0;
      for (let k = 0; k < WINDOW.length; k++) sum += WINDOW[k]! * along[(y + k) * inner + x]!;
      means[y * inner + x] = sum;
    }
  }
  return means;
}

function times(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value * b[i]!);
}

function requireSame(images: Images, originals: Images): void {
  if (images.shape.length === 4 && sameShape(images.shape, originals.shape)) return;
  throw new UserError(
    `Images of shape ${describeShape(images.shape)} cannot be compared with ones of ${describeShape(originals.shape)}.`,
    { hint: "Both must be [n, channels, height, width] and of one size." },
  );
}
