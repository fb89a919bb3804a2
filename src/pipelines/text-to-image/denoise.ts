import { cutBatch, joinBatch } from "../../core/batch-parts.ts";
import { float32 } from "../../core/host-tensor.ts";
import { type GuidanceOptions, guide, guides, type Network, type Samples } from "../../diffusion/index.ts";
import type { Tensor } from "../../graph/index.ts";
import type { PartSessions, WeightChange } from "../part-sessions.ts";
import type { Conditions, GuidedConditions } from "./conditions.ts";
import type { controlOf } from "./control.ts";
import type { Family } from "./family.ts";
import type { BatchStart } from "./source.ts";

export interface DenoiseOptions {
  readonly conditions: GuidedConditions;
  readonly guidance: GuidanceOptions;
  /** What an inpainting network sees beside the latents. */
  readonly seen: BatchStart["seen"];
  readonly signal: AbortSignal | undefined;
  readonly change: WeightChange | undefined;
  /** What a control network adds at a call. */
  readonly control: ReturnType<typeof controlOf> | undefined;
  /** Is told of each call. */
  readonly onCall: () => void;
}

/** The denoising network as a sampler's: guided where the request says so, with both conditions in one batch. */
export function guidedNetwork(
  { predict }: Family,
  sessions: PartSessions,
  { conditions, guidance, seen, signal, change, control, onCall }: DenoiseOptions,
): Network {
  const { positive, negative } = conditions;
  const both = negative && joined(negative, positive);
  const seenTwice = both &&
    seen && { mask: joinBatch([seen.mask, seen.mask]), kept: joinBatch([seen.kept, seen.kept]) };

  // Calls with and without guidance or control take turns; else another shape's weights need not stay in memory.
  const keep = guidance.interval || control ? 2 : 1;

  const run = async (
    [latents, timestep, at]: Parameters<Network>,
    given: Conditions,
    inpainting: BatchStart["seen"],
  ): Promise<Samples> => {
    const residuals = await control?.({ latents, timestep, conditions: given, signal }, at);
    const n = latents.shape[0]!;
    const job = {
      name: "denoise",
      feeds: {
        latents,
        timestep: float32([n], new Float32Array(n).fill(timestep)),
        ...given,
        ...inpainting,
        ...residuals,
      },
      graph: (inputs: Readonly<Record<string, Tensor>>) => ({ output: predict(inputs) }),
    };
    onCall();
    return (await sessions.run(job, { signal, change, keep })).output as Samples;
  };

  return async (x, timestep, at) => {
    if (!both || !guides(guidance, at.level)) return run([x, timestep, at], positive, seen);
    const said = await run([joinBatch([x, x]), timestep, at], both, seenTwice);
    const [unconditional, conditional] = cutBatch(said, 2);
    return guide(conditional!, unconditional!, guidance);
  };
}

/** The conditions of two batches as those of one, the first batch first. */
function joined(first: Conditions, second: Conditions): Conditions {
  const names = Object.keys(second) as (keyof Conditions)[];
  return Object.fromEntries(
    names.map((name) => [name, joinBatch([first[name]!, second[name]!])]),
  ) as unknown as Conditions;
}
