import { weightVariants } from "./model-weights.ts";

/** Which weights of several folders are taken. */
export interface ChosenVariants {
  /** The variant to read of a folder; undefined: the weights without one. */
  of(folder: string): string | undefined;
  /** A sentence for each folder that lacks the variant asked for. */
  readonly warnings: readonly string[];
}

/**
 * Chooses the variant that is read of each folder of a model: the one asked for, or, of folders that lack it, the weights without
 * one. Where no folder has it, it is chosen for all, so that reading them refuses it and says what there is; unless it is optional.
 */
export async function chosenVariants(
  folders: readonly string[],
  variant: string | undefined,
  { optional = false }: { readonly optional?: boolean } = {},
): Promise<ChosenVariants> {
  if (variant === undefined) return { of: () => undefined, warnings: [] };
  const variants = await Promise.all(folders.map(weightVariants));
  // Tokenizers and schedulers have no weights.
  const weighted = folders.filter((_, i) => variants[i]!.length > 0);
  const lacking = weighted.filter((folder) => !variants[folders.indexOf(folder)]!.includes(variant));
  if (lacking.length === weighted.length && !optional) return { of: () => variant, warnings: [] };
  return {
    of: (folder) => (lacking.includes(folder) ? undefined : variant),
    warnings: lacking.map((folder) => withoutVariant(folder, variant)),
  };
}

/** Says that the weights without a variant are taken in the place of those of a variant. */
export function withoutVariant(what: string, variant: string): string {
  return `${what} has no ${variant} weights; taken are those without a variant.`;
}
