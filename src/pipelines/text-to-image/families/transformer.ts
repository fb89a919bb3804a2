import { UserError } from "../../../core/errors.ts";
import type { Size } from "../family.ts";

/** How many tokens a transformer makes of latents. */
export function tokensOf([height, width]: Size, patch: number): number {
  return (height / patch) * (width / patch);
}

/** Of a transformer's tokens: the states, queries, keys and values, and the wide middle of the feed-forward network. */
export function statesOf(
  {
    num_attention_heads: heads,
    attention_head_dim: width,
  }: Readonly<Record<"num_attention_heads" | "attention_head_dim", number>>,
  tokens: number,
): number {
  return (1 + 3 + 4) * heads * width * tokens;
}

/** Throws a UserError where what text encoders give is not as wide as what the denoising network takes. */
export function mustTake(
  path: string,
  { what, given, taken }: { readonly what: string; readonly given: number; readonly taken: number },
): void {
  if (given === taken) return;
  throw new UserError(`The text encoders of ${path} give ${what} of width ${given}; its transformer takes ${taken}.`, {
    hint: "They are parts of different models.",
    field: "model",
  });
}
