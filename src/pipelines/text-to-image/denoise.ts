import { cutBatch, joinBatch } from "../../core/batch-parts.ts";
import { float32 } from "../../core/host-tensor.ts";
import { type GuidanceOptions, guide, guides, type Network, type Samples } from "../../diffusion/index.ts";
import type { PartJob, PartSessions, WeightChange } from "../part-sessions.ts";
import { type AttentionRecord, watchedAttention } from "./attention-maps.ts";
import type { Conditions, GuidedConditions } from "./conditions.ts";
import type { controlOf } from "./control.ts";
import type { Family } from "./family.ts";
import { type Seamless, seamlessJob } from "./seamless.ts";
import type { BatchStart } from "./source.ts";
import { deepState, type StepCache, shallowFeeds, withDeepState } from "./step-cache.ts";

export interface DenoiseOptions {
  readonly conditions: GuidedConditions;
  readonly guidance: GuidanceOptions;
  /** What an inpainting network sees beside the latents. */
  readonly seen: BatchStart["seen"];
  readonly signal: AbortSignal | undefined;
  readonly change: WeightChange | undefined;
  /** What a control network adds at a call. */
  readonly control: ReturnType<typeof controlOf> | undefined;
  readonly seamless: Seamless;
  /** Deep states that are used again. */
  readonly cache: StepCache | undefined;
  /** What keeps the attention to the text, of calls of the whole network. */
  readonly attention: AttentionRecord | undefined;
  /** Is told of each call. */
  readonly onCall: () => void;
}

/** The denoising network as a sampler's: guided where the request says so, with both conditions in one batch. */
export function guidedNetwork(
  { predict }: Family,
  sessions: PartSessions,
  { conditions, guidance, seen, signal, change, control, seamless, cache, attention, onCall }: DenoiseOptions,
): Network {
  const { positive, negative } = conditions;
  const both = negative && joined(negative, positive);
  const seenTwice = both &&
    seen && { mask: joinBatch([seen.mask, seen.mask]), kept: joinBatch([seen.kept, seen.kept]) };

  // Calls with and without guidance or control take turns, and whole and shallow ones; else another shape's weights need not
  // stay in memory.
  const keep = (guidance.interval || control ? 2 : 1) * (cache ? 2 : 1);

  const run = async (
    [latents, timestep, at]: Parameters<Network>,
    given: Conditions,
    inpainting: BatchStart["seen"],
  ): Promise<Samples> => {
    const n = latents.shape[0]!;
    const kept = cache?.at(at, n);
    const residuals = kept ? undefined : await control?.({ latents, timestep, conditions: given, signal }, at);
    const common = {
      latents,
      timestep: float32([n], new Float32Array(n).fill(timestep)),
      ...given,
      ...inpainting,
    };
    const steady = Object.keys(given);
    const job: PartJob = kept
      ? {
          name: `shallow ${cache!.depth}`,
          feeds: { ...common, ...shallowFeeds(kept, cache!.depth) },
          steady,
          graph: (inputs) => ({ output: predict(inputs, { onWayUp: withDeepState(inputs.deep!, cache!.depth) }) }),
        }
      : {
          name: ["denoise", cache && `deep ${cache.depth}`, attention && `attention ${attention.size}`].join(" "),
          feeds: { ...common, ...residuals },
          steady,
          graph: (inputs) => {
            const deep = cache && deepState(cache.depth);
            const watched = attention && watchedAttention(attention.size);
            const output = predict(inputs, { onWayUp: deep?.onWayUp, onCrossAttention: watched?.onCrossAttention });
            return { output, ...(deep && { deep: deep.state() }), ...(watched && { attention: watched.mean() }) };
          },
        };
    onCall();
    const said = (await sessions.run(seamlessJob(job, seamless), { signal, change, keep })) as Record<string, Samples>;
    if (said.deep) cache!.keep({ deep: said.deep, residuals });
    if (said.attention) attention!.add(said.attention);
    return said.output!;
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
