import { UserError } from "./errors.ts";

const WORDS = 624;
const SHIFT = 397;

/** The words of an mt19937 generator and which of them is drawn next: plain data. */
export interface TwisterState {
  /** 624 unsigned 32-bit words. */
  readonly words: readonly number[];
  /** 0 to 624; 624 means that the next draw computes a new block. */
  readonly position: number;
}

/**
 * The Mersenne Twister mt19937 (Matsumoto & Nishimura, "Mersenne Twister: A 623-dimensionally equidistributed uniform
 * pseudo-random number generator", 1998), seeded as torch seeds its CPU generator: by the low 32 bits of the seed.
 */
export class MersenneTwister {
  private readonly words: Int32Array;
  private position: number;

  private constructor(words: Int32Array, position: number) {
    this.words = words;
    this.position = position;
  }

  static seeded(seed: number | bigint): MersenneTwister {
    const words = new Int32Array(WORDS);
    words[0] = low32(seed);
    for (let j = 1; j < WORDS; j++) {
      const previous = words[j - 1]!;
      words[j] = Math.imul(1812433253, previous ^ (previous >>> 30)) + j;
    }
    return new MersenneTwister(words, WORDS);
  }

  static restored(state: TwisterState): MersenneTwister {
    const { words, position } = state;
    if (words.length !== WORDS || !Number.isInteger(position) || position < 0 || position > WORDS) {
      throw new UserError(
        `A random state must have ${WORDS} words and a position from 0 to ${WORDS}; this one has ${words.length} words and position ${position}.`,
        { hint: "The checkpoint it came from is damaged or of another kind." },
      );
    }
    return new MersenneTwister(Int32Array.from(words), position);
  }

  state(): TwisterState {
    return { words: Array.from(this.words, (word) => word >>> 0), position: this.position };
  }

  /** The next 32 random bits as a signed integer; `>>> 0` makes it unsigned. */
  next(): number {
    if (this.position === WORDS) this.advance();
    let y = this.words[this.position++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return y ^ (y >>> 18);
  }

  private advance(): void {
    const words = this.words;
    for (let i = 0; i < WORDS; i++) {
      const y = (words[i]! & 0x80000000) | (words[i + 1 === WORDS ? 0 : i + 1]! & 0x7fffffff);
      const far = i + SHIFT;
      words[i] = words[far < WORDS ? far : far - WORDS]! ^ (y >>> 1) ^ (-(y & 1) & 0x9908b0df);
    }
    this.position = 0;
  }
}

/** The low 32 bits of a seed, as a signed integer; negative seeds are taken in two's complement, as torch does. */
function low32(seed: number | bigint): number {
  if (typeof seed === "number" && !Number.isSafeInteger(seed)) {
    throw new UserError(`The seed ${seed} is not a whole number a double holds exactly.`, {
      hint: "Give a whole number; above 2^53 as a bigint, for example 18446744073709551615n.",
      field: "seed",
    });
  }
  const wide = BigInt(seed);
  if (wide < -(1n << 63n) || wide >= 1n << 64n) {
    throw new UserError(`The seed ${seed} does not fit into 64 bits.`, {
      hint: "Accepted are whole numbers from -2^63 to 2^64 - 1.",
      field: "seed",
    });
  }
  return Number(BigInt.asIntN(32, wide));
}
