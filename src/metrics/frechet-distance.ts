import { EigenvalueDecomposition, Matrix } from "ml-matrix";
import { comparableRows, type FeatureRows, type Features } from "./features.ts";

/**
 * The Fréchet distance between two sets of features, each taken as a normal distribution (Dowson & Landau 1982; Heusel
 * et al. 2017, eq. 6):
 *   |μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½).
 * It is a squared distance, in squared units of the features. Small samples make it too large: compare sets of the same
 * size only.
 *
 * @param a [samples, features], at least 2 samples
 * @param b the same number of features; any number of samples from 2 on
 * @throws UserError for features that cannot be compared
 */
export function frechetDistance(a: Features, b: Features): number {
  const [x, y] = comparableRows([a, b], 2);
  const meanA = meanOf(x);
  const meanB = meanOf(y);
  const covarianceA = covarianceOf(x, meanA);
  const covarianceB = covarianceOf(y, meanB);
  const squares = meanA.reduce((sum, value, i) => sum + (value - meanB[i]!) ** 2, 0);
  return squares + covarianceA.trace() + covarianceB.trace() - 2 * traceOfRoot(covarianceA, covarianceB);
}

/** The mean of each feature. */
function meanOf({ count, width, data }: FeatureRows): Float64Array {
  const mean = new Float64Array(width);
  for (let row = 0; row < count; row++) for (let i = 0; i < width; i++) mean[i]! += data[row * width + i]!;
  return mean.map((sum) => sum / count);
}

/** The covariance [features, features], divided by samples − 1. */
function covarianceOf({ count, width, data }: FeatureRows, mean: Float64Array): Matrix {
  const sums = new Float64Array(width * width);
  const centred = new Float64Array(width);
  for (let row = 0; row < count; row++) {
    for (let i = 0; i < width; i++) centred[i] = data[row * width + i]! - mean[i]!;
    for (let i = 0; i < width; i++) {
      const value = centred[i]!;
      const at = i * width;
      for (let j = 0; j <= i; j++) sums[at + j]! += value * centred[j]!;
    }
  }
  const covariance = Matrix.zeros(width, width);
  for (let i = 0; i < width; i++) {
    for (let j = 0; j <= i; j++) {
      const value = sums[i * width + j]! / (count - 1);
      covariance.set(i, j, value);
      covariance.set(j, i, value);
    }
  }
  return covariance;
}

/**
 * tr (A B)^½ of positive semidefinite A and B. A·B is not symmetric, but has the eigenvalues of the symmetric
 * A^½ B A^½, whose roots add up to the trace; so nothing complex comes up where the matrices are singular.
 */
function traceOfRoot(a: Matrix, b: Matrix): number {
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(a, { assumeSymmetric: true });
  // Rounding makes eigenvalues that are zero slightly negative.
  const scaled = eigenvectorMatrix.clone().mulRowVector(realEigenvalues.map((value) => Math.sqrt(Math.max(value, 0))));
  const symmetric = scaled.transpose().mmul(b).mmul(scaled); // D^½ Vᵀ B V D^½: the same eigenvalues again
  const { realEigenvalues: values } = new EigenvalueDecomposition(symmetric, { assumeSymmetric: true });
  return values.reduce((sum, value) => sum + Math.sqrt(Math.max(value, 0)), 0);
}
