import { z } from "zod";
import type { GuidanceOptions } from "../diffusion/index.ts";

/** What requests say of guidance beside its weight, whatever leads: words or a class. */
export const guidanceFields = {
  guidanceRescale: z.number().min(0).max(1).default(0).describe("how much of the contrast guidance adds is taken back"),
  guidanceInterval: z
    .tuple([z.number().min(0), z.number().min(0)])
    .refine(([low, high]) => low <= high, "It is empty; the smaller level comes first")
    .optional()
    .describe("guide only between these two noise levels, sigma per unit of signal"),
};

/** The guidance of a request. */
export function guidanceOptions(
  scale: number,
  { guidanceRescale: rescale, guidanceInterval }: z.output<z.ZodObject<typeof guidanceFields>>,
): GuidanceOptions {
  if (!guidanceInterval) return { scale, rescale };
  const [minimum, maximum] = guidanceInterval;
  return { scale, rescale, interval: { minimum, maximum } };
}
