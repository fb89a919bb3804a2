/**
 * What a graph is built for. A graph that is differentiated keeps what its layers compute between; one that only draws pictures need not, and
 * layers over many tokens then work in pieces.
 */

interface Purpose {
  /** Whether the graph is not differentiated. */
  readonly inference: boolean;
  /** The most bytes of scores that an attention holds at once. */
  readonly scoreBytes: number;
}

let purpose: Purpose = { inference: false, scoreBytes: Number.POSITIVE_INFINITY };

/** The most that an attention's scores take in {@link forInference}. */
const INFERENCE_SCORES = 256 * 2 ** 20;

/** What the graph that is built just now is for. */
export function graphPurpose(): Purpose {
  return purpose;
}

function within<T>(inner: Purpose, build: () => T): T {
  const outer = purpose;
  purpose = inner;
  try {
    return build();
  } finally {
    purpose = outer;
  }
}

/**
 * Runs `build` so that no attention in the graph it builds holds more than `bytes` of scores at once: queries are taken in
 * as many pieces as that needs. The result is the same; large images need far less memory.
 */
export function withScoreLimit<T>(bytes: number, build: () => T): T {
  return within({ ...purpose, scoreBytes: bytes }, build);
}

/**
 * Runs `build` for a graph that is not differentiated: attention over many tokens then uses operators that never hold all
 * its scores, where the target has them, and pieces of scores elsewhere; feed-forward layers hold the hidden values of some tokens
 * at a time.
 */
export function forInference<T>(build: () => T): T {
  return within({ inference: true, scoreBytes: Math.min(purpose.scoreBytes, INFERENCE_SCORES) }, build);
}
