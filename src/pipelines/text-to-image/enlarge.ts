import { UserError } from "../../core/errors.ts";
import type { Size } from "./family.ts";
import type { ResolvedRequest, TextToImagePicture, TextToImageRunOptions, TextToImageState } from "./pipeline-types.ts";

/** Draws the pictures of a request that enlarges nothing. */
export type Pass = (
  request: ResolvedRequest,
  options: TextToImageRunOptions,
) => AsyncGenerator<TextToImageState, void, void>;

/**
 * Draws each picture at the size of training, scales it up and draws it again from there, so that large pictures keep
 * the composition a model knows. Yields the steps of both; the pictures are those of the second.
 */
export async function* enlarged(
  request: ResolvedRequest,
  options: TextToImageRunOptions,
  {
    pass,
    size,
    multiple,
    check,
    stepsAfter,
  }: {
    readonly pass: Pass;
    /** That is drawn first. */
    readonly size: Size;
    /** Of which sides are multiples. */
    readonly multiple: number;
    /** Throws for a larger size that cannot be drawn. */
    readonly check: (size: Size) => void;
    /** How many steps a strength leaves. */
    readonly stepsAfter: (steps: number, strength: number) => number;
  },
): AsyncGenerator<TextToImageState, void, void> {
  const { enlarge, enlargeStrength, enlargeSteps } = request;
  const first: ResolvedRequest = { ...request, enlarge: undefined };
  const refuse = (what: string) => {
    throw new UserError(`\`enlarge\` was given together with ${what}.`, { hint: "Leave one out.", field: "enlarge" });
  };
  if (request.mask !== undefined) refuse("`mask`");
  if (options.random) refuse("a random source");
  // A distilled model's single step would leave none.
  const steps = enlargeSteps ?? Math.max(request.steps, Math.ceil(1 / enlargeStrength));
  const each = stepsAfter(steps, enlargeStrength);
  const height = enlargedSide(size[0], enlarge!, multiple);
  const width = enlargedSide(size[1], enlarge!, multiple);
  check([height, width]);

  const drafts: TextToImagePicture[] = [];
  let total = 0;
  let before = 0;
  for await (const { images, decoded: _, attention: __, ...state } of pass(
    { ...first, enlarge: undefined } as ResolvedRequest,
    options,
  )) {
    drafts.push(...(images ?? []));
    // Each batch has as many pictures as the first, or fewer at the end.
    total = state.total + each * pictures(request);
    before = state.done;
    yield { ...state, total };
  }
  for (const [i, draft] of drafts.entries()) {
    const again: ResolvedRequest = {
      ...first,
      ...{ image: draft, width, height, steps, strength: enlargeStrength },
      ...{ prompt: draft.prompt, count: 1, seeds: [draft.seed] },
      prompt2: request.prompt2 === undefined ? undefined : draft.prompt2,
      prompt3: request.prompt3 === undefined ? undefined : draft.prompt3,
      negativePrompt: draft.negative,
      negativePrompt2: request.negativePrompt2 === undefined ? undefined : draft.negative2,
      negativePrompt3: request.negativePrompt3 === undefined ? undefined : draft.negative3,
    };
    for await (const state of pass(again, options)) {
      yield { ...state, first: i, done: before + i * each + state.step, total };
    }
  }
}

function pictures({ prompt, count }: ResolvedRequest): number {
  return (Array.isArray(prompt) ? prompt.length : 1) * count;
}

function enlargedSide(side: number, by: number, factor: number): number {
  const exact = side * by;
  if (Math.abs(exact / factor - Math.round(exact / factor)) < 1e-6) return Math.round(exact);
  const near = (Math.round(exact / factor) * factor) / side;
  throw new UserError(`${side} pixels ${by} times larger are ${exact}, which is no multiple of ${factor}.`, {
    hint: `Near is ${Number(near.toFixed(6))}.`,
    field: "enlarge",
  });
}
