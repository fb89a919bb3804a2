/**
 * The linear combination Σ weightₖ · arrayₖ, the only arithmetic a solver's step does on images. Every element is
 * summed in double precision and rounded once.
 */
export function combine(weights: readonly number[], arrays: readonly Float32Array[]): Float32Array {
  const n = arrays[0]!.length;
  const out = new Float32Array(n);
  const [a = 0, b = 0, c = 0] = weights;
  const [x, y, z] = arrays as [Float32Array, Float32Array, Float32Array];
  switch (arrays.length) {
    case 1:
      for (let i = 0; i < n; i++) out[i] = a * x[i]!;
      return out;
    case 2:
      for (let i = 0; i < n; i++) out[i] = a * x[i]! + b * y[i]!;
      return out;
    case 3:
      for (let i = 0; i < n; i++) out[i] = a * x[i]! + b * y[i]! + c * z[i]!;
      return out;
    default: {
      const sums = new Float64Array(n);
      for (let k = 0; k < arrays.length; k++) {
        const array = arrays[k]!;
        const weight = weights[k]!;
        for (let i = 0; i < n; i++) sums[i]! += weight * array[i]!;
      }
      out.set(sums);
      return out;
    }
  }
}
