/** One measured difference between what we compute and what a reference case holds. */
export interface Comparison {
  /** What was compared, for example `betas` or `samples[3]`. */
  readonly what: string;
  /** The largest absolute difference; 0 for exact matches, `Infinity` for a wrong shape or length or a NaN. */
  readonly absolute: number;
  /** The largest absolute difference over the largest absolute reference value. */
  readonly relative: number;
  /** The tolerance in words, as its README names it. */
  readonly tolerance: string;
  readonly pass: boolean;
}

/** One case of a reference folder. */
export interface ReferenceCase {
  /** Path-like and unique, for example `schedulers/DDIM-default-eta0`. */
  readonly name: string;
  /** Runs it. Throwing counts as a failure with the error's message. */
  run(): Promise<Comparison[]>;
}

/** A kind of case: knows where its cases lie in a folder laid out like the reference set and how to run them. */
export interface CaseKind {
  /** The sub-folder or file of the reference set it covers, for example `schedulers`. */
  readonly kind: string;
  /** The cases of this kind in `folder`; none when the folder has none. */
  discover(folder: string): Promise<ReferenceCase[]>;
  /** Names of cases of this kind that cannot be run yet. */
  notBuilt?(folder: string): Promise<string[]>;
}

/** Compares two lists of numbers under `|a - b| <= absolute + relative * |b|` (each element; NaN equals NaN, infinities must match). */
export function compare(
  what: string,
  ours: ArrayLike<number>,
  theirs: ArrayLike<number>,
  tolerance: { readonly absolute?: number; readonly relative?: number; readonly ofMaximum?: number },
): Comparison {
  const { absolute = 0, relative = 0, ofMaximum = 0 } = tolerance;
  let maximum = 0;
  for (let i = 0; i < theirs.length; i++) {
    const size = Math.abs(theirs[i]!);
    if (Number.isFinite(size) && size > maximum) maximum = size;
  }
  let worst = 0;
  let pass = ours.length === theirs.length;
  if (!pass) worst = Number.POSITIVE_INFINITY;
  for (let i = 0; pass && i < theirs.length; i++) {
    const a = ours[i]!;
    const b = theirs[i]!;
    if (Object.is(a, b) || a === b) continue;
    const difference = Math.abs(a - b);
    if (!Number.isFinite(difference)) {
      worst = Number.POSITIVE_INFINITY;
      pass = false;
      break;
    }
    if (difference > worst) worst = difference;
  }
  for (let i = 0; pass && i < theirs.length; i++) {
    const a = ours[i]!;
    const b = theirs[i]!;
    if (Object.is(a, b) || a === b) continue;
    if (!(Math.abs(a - b) <= absolute + relative * Math.abs(b) + ofMaximum * maximum)) pass = false;
  }
  const parts = [
    absolute > 0 ? `${absolute} absolute` : "",
    relative > 0 ? `${relative} relative` : "",
    ofMaximum > 0 ? `${ofMaximum} of the largest` : "",
  ].filter(Boolean);
  return {
    what,
    absolute: worst,
    relative: maximum > 0 ? worst / maximum : worst === 0 ? 0 : Number.POSITIVE_INFINITY,
    tolerance: parts.length > 0 ? parts.join(" + ") : "exact",
    pass,
  };
}
