// What a graph is built for: one that is differentiated keeps what its layers compute between; where it only draws pictures,
// layers over many tokens work in pieces.

interface Purpose {
  /** Whether the graph is not differentiated. */
  readonly inference: boolean;
  /** The most bytes of scores that an attention holds at once. */
  readonly scoreBytes: number;
  /** The most bytes of a feed-forward layer's first values that are held at once. */
  readonly hiddenBytes: number;
}

const EVERYTHING = Number.POSITIVE_INFINITY;
let purpose: Purpose = { inference: false, scoreBytes: EVERYTHING, hiddenBytes: EVERYTHING };

/** The most that an attention's scores take in {@link forInference}. */
const INFERENCE_SCORES = 256 * 2 ** 20;
/** The same of feed-forward layers: measured, fewer are no slower. */
const INFERENCE_HIDDEN = 8 * 2 ** 20;
/** Each piece unpacks rounded weights anew. */
const ROUNDED_HIDDEN = 64 * 2 ** 20;

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
 * its scores, where the target has them, and pieces of scores elsewhere; feed-forward layers take some tokens at a time.
 *
 * @param options.rounded whether the weights of its linear layers will be in few bits
 */
export function forInference<T>(build: () => T, { rounded = false }: { readonly rounded?: boolean } = {}): T {
  const scoreBytes = Math.min(purpose.scoreBytes, INFERENCE_SCORES);
  return within({ inference: true, scoreBytes, hiddenBytes: rounded ? ROUNDED_HIDDEN : INFERENCE_HIDDEN }, build);
}
