const f = Math.fround;

// ln(1 + m) as P(m) / Q(m) for 1 + m between 1/√2 and √2; the highest power is first.
const P = [0.025899791179079226, 0.3808837741388408, 1.4800006335765066, 2.112677543073053, 0.9999999999999999, 0].map(
  f,
);
const Q = [0.005875095403124574, 0.15464763749839067, 0.9864942958519419, 2.453006071784736, 2.6126775430731093, 1].map(
  f,
);
const LN2 = f(Math.LN2);

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/**
 * The natural logarithm of a positive, normal float32 as numpy computes it with AVX2 and AVX-512
 * (numpy/_core/src/umath/loops_exponent_log.dispatch.c.src): a rational approximation, up to 4 units in the last place
 * from the true value. Fractional timesteps of diffusers come out of it, and are the same bits here only with it.
 */
export function log32(x: number): number {
  float[0] = x;
  const word = bits[0]!;
  let exponent = (word >>> 23) - 127;
  bits[0] = (word & 0x7fffff) | 0x3f800000;
  let m = float[0]!;
  if (m > f(Math.SQRT2)) {
    m /= 2;
    exponent++;
  }
  m = f(m - 1);
  return fused(exponent, LN2, f(polynomial(P, m) / polynomial(Q, m)));
}

function polynomial(coefficients: readonly number[], x: number): number {
  return coefficients.reduce((sum, coefficient) => fused(sum, x, coefficient));
}

/** a b + c with one rounding to float32: the product of two float32 is exact in double precision. */
function fused(a: number, b: number, c: number): number {
  return f(a * b + c);
}
