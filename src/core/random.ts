import { UserError } from "./errors.ts";
import { type HostTensor, hostTensor, type Shape, sizeOf } from "./host-tensor.ts";
import { MersenneTwister, type TwisterState } from "./mersenne-twister.ts";

/** Everything a random source remembers: plain data that JSON keeps exactly. */
export interface RandomState extends TwisterState {
  /** The second number of the last Box-Muller pair of a small draw, still to be handed out. */
  readonly cachedNormal: number | null;
}

/**
 * A seeded source of random numbers that gives the numbers of torch's CPU generator, draw for draw.
 *
 * torch fills a tensor of 16 or more normal numbers in blocks and a smaller one number by number, so `normal([20])` is
 * not `normal([10])` twice; what one call is in Python must be one call here.
 */
export interface Random {
  /** Normal float32 numbers, as `torch.randn(shape)`; with mean and deviation as `Tensor.normal_(mean, std)`. */
  normal(shape: Shape, options?: { readonly mean?: number; readonly std?: number }): HostTensor<"float32">;
  /** Normal float64 numbers, as `torch.randn(shape, dtype=torch.float64)`. */
  normal64(shape: Shape): HostTensor<"float64">;
  /** Uniform float32 numbers in [low, high), as `torch.rand(shape)` and `Tensor.uniform_(low, high)`. */
  uniform(shape: Shape, options?: { readonly low?: number; readonly high?: number }): HostTensor<"float32">;
  /** Uniform float64 numbers in [0, 1), as `torch.rand(shape, dtype=torch.float64)`. */
  uniform64(shape: Shape): HostTensor<"float64">;
  /** Whole numbers from `low` to `high - 1`, as `torch.randint(low, high, shape)`; bigints beyond 2^53. */
  integers(low: number | bigint, high: number | bigint, shape: Shape): HostTensor<"int64">;
  /** One whole number from `low` to `high - 1`: the element of `integers(low, high, [1])`. */
  integer(low: number, high: number): number;
  /** The numbers 0 to n - 1 in random order, as `torch.randperm(n)`. */
  permutation(n: number): Uint32Array;
  /** Zeros and ones, one with the given probability, as `Tensor.bernoulli_(p)`. */
  bernoulli(probability: number, shape: Shape): HostTensor<"float32">;
  /** Fills an array in place with what `normal` of that many elements would hold. */
  fillNormal(target: Float32Array, options?: { readonly mean?: number; readonly std?: number }): void;
  /** Fills an array in place with what `uniform` of that many elements would hold. */
  fillUniform(target: Float32Array, options?: { readonly low?: number; readonly high?: number }): void;
  /** The position of the source; `restored` of it continues with the same numbers. */
  state(): RandomState;
}

/**
 * A random source from a seed: the same numbers as `torch.Generator("cpu").manual_seed(seed)`.
 * @param seed a whole number of at most 64 bits; only its low 32 bits matter, as in torch
 */
export function seeded(seed: number | bigint): Random {
  return randomFrom(MersenneTwister.seeded(seed), null);
}

/** A random source that continues where `random.state()` was read. */
export function restored(state: RandomState): Random {
  return randomFrom(MersenneTwister.restored(state), state.cachedNormal);
}

/** From this size on torch fills a contiguous tensor of normal numbers block by block. */
const BLOCKWISE_FROM = 16;
const TWO_PI = 2 * Math.PI;
const TWO_PI_32 = Math.fround(TWO_PI);

function randomFrom(twister: MersenneTwister, cached: number | null): Random {
  let cachedNormal = cached;

  /** 24 bits: all that a float32 in [0, 1) can hold evenly. */
  const unit32 = () => (twister.next() & 0xffffff) * 2 ** -24;

  /** 53 bits of a 64-bit draw, the first word being the high one. */
  const unit64 = () => {
    const high = twister.next() & 0x1fffff;
    return (high * 2 ** 32 + (twister.next() >>> 0)) * 2 ** -53;
  };

  /** One number of a Box-Muller pair; the other is kept for the next call. */
  const pairedNormal = () => {
    if (cachedNormal !== null) {
      const value = cachedNormal;
      cachedNormal = null;
      return value;
    }
    const turn = TWO_PI * unit64();
    const radius = Math.sqrt(-2 * Math.log1p(-unit64()));
    cachedNormal = radius * Math.sin(turn);
    return radius * Math.cos(turn);
  };

  const transformBlock32 = (target: Float32Array, start: number, mean: number, std: number) => {
    for (let j = start; j < start + 8; j++) {
      const radius = Math.fround(Math.sqrt(-2 * Math.fround(Math.log(1 - target[j]!))));
      const turn = Math.fround(TWO_PI_32 * target[j + 8]!);
      target[j] = radius * Math.cos(turn) * std + mean;
      target[j + 8] = radius * Math.sin(turn) * std + mean;
    }
  };

  const transformBlock64 = (target: Float64Array, start: number) => {
    for (let j = start; j < start + 8; j++) {
      const radius = Math.sqrt(-2 * Math.log(1 - target[j]!));
      const turn = TWO_PI * target[j + 8]!;
      target[j] = radius * Math.cos(turn);
      target[j + 8] = radius * Math.sin(turn);
    }
  };

  const fillNormal: Random["fillNormal"] = (target, { mean = 0, std = 1 } = {}) => {
    const n = target.length;
    if (n < BLOCKWISE_FROM) {
      for (let i = 0; i < n; i++) target[i] = pairedNormal() * std + mean;
      return;
    }
    for (let i = 0; i < n; i++) target[i] = unit32();
    const whole = n - (n % 16);
    for (let start = 0; start < whole; start += 16) transformBlock32(target, start, mean, std);
    if (whole === n) return;
    // The tail redraws the last 16, overwriting part of the last whole block.
    for (let i = n - 16; i < n; i++) target[i] = unit32();
    transformBlock32(target, n - 16, mean, std);
  };

  const fillUniform: Random["fillUniform"] = (target, { low = 0, high = 1 } = {}) => {
    const from = Math.fround(low);
    const width = Math.fround(Math.fround(high) - from);
    // Product and sum are rounded once, as the fused multiply-add that torch's builds use.
    for (let i = 0; i < target.length; i++) target[i] = unit32() * width + from;
  };

  /** torch draws 64 bits as soon as the remainder of 32 would be noticeably uneven. */
  const below = (range: bigint): bigint => {
    const first = BigInt(twister.next() >>> 0);
    if (range < 1n << 28n) return first % range;
    return ((first << 32n) | BigInt(twister.next() >>> 0)) % range;
  };

  const integer: Random["integer"] = (low, high) => {
    const range = high - low;
    if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || !(range > 0)) throw noInteger(low, high);
    return range < 2 ** 28 ? ((twister.next() >>> 0) % range) + low : Number(below(BigInt(range))) + low;
  };

  return {
    normal(shape, options) {
      const data = new Float32Array(sizeOf(shape));
      fillNormal(data, options);
      return hostTensor("float32", shape, data);
    },
    normal64(shape) {
      const data = new Float64Array(sizeOf(shape));
      const n = data.length;
      if (n < BLOCKWISE_FROM) {
        for (let i = 0; i < n; i++) data[i] = pairedNormal();
      } else {
        for (let i = 0; i < n; i++) data[i] = unit64();
        const whole = n - (n % 16);
        for (let start = 0; start < whole; start += 16) transformBlock64(data, start);
        if (whole !== n) {
          for (let i = n - 16; i < n; i++) data[i] = unit64();
          transformBlock64(data, n - 16);
        }
      }
      return hostTensor("float64", shape, data);
    },
    uniform(shape, options) {
      const data = new Float32Array(sizeOf(shape));
      fillUniform(data, options);
      return hostTensor("float32", shape, data);
    },
    uniform64(shape) {
      const data = new Float64Array(sizeOf(shape));
      for (let i = 0; i < data.length; i++) data[i] = unit64();
      return hostTensor("float64", shape, data);
    },
    integers(low, high, shape) {
      const data = new BigInt64Array(sizeOf(shape));
      if (typeof low === "number" && typeof high === "number") {
        for (let i = 0; i < data.length; i++) data[i] = BigInt(integer(low, high));
      } else {
        const from = BigInt(low);
        const range = BigInt(high) - from;
        if (range <= 0n) throw noInteger(low, high);
        for (let i = 0; i < data.length; i++) data[i] = below(range) + from;
      }
      return hostTensor("int64", shape, data);
    },
    integer,
    permutation(n) {
      const order = Uint32Array.from({ length: n }, (_, i) => i);
      for (let i = 0; i < n - 1; i++) {
        const other = i + ((twister.next() >>> 0) % (n - i));
        const value = order[i]!;
        order[i] = order[other]!;
        order[other] = value;
      }
      return order;
    },
    bernoulli(probability, shape) {
      if (!(probability >= 0 && probability <= 1)) {
        throw new UserError(`The probability ${probability} is not between 0 and 1.`);
      }
      const data = new Float32Array(sizeOf(shape));
      for (let i = 0; i < data.length; i++) data[i] = unit64() < probability ? 1 : 0;
      return hostTensor("float32", shape, data);
    },
    fillNormal,
    fillUniform,
    state: () => ({ ...twister.state(), cachedNormal }),
  };
}

function noInteger(low: number | bigint, high: number | bigint): UserError {
  return new UserError(`There is no whole number from ${low} to below ${high}.`, {
    hint: "Give two whole numbers, the second larger than the first; bigints beyond 2^53.",
  });
}
