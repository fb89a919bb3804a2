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
import {
  deepState,
  type StepCache,
  type StepCacheOptions,
  shallowFeeds,
  stepCache,
  withDeepState,
} from "./step-cache.ts";

export interface DenoiseOptions {
  readonly conditions: GuidedConditions;
  readonly guidance: GuidanceOptions;
  /** Asks with and without the prompt one after the other, not in one batch: less memory. */
  readonly inTurn: boolean;
  /** What an inpainting network sees beside the latents. */
  readonly seen: BatchStart["seen"];
  readonly signal: AbortSignal | undefined;
  readonly change: WeightChange | undefined;
  /** What a control network adds at a call. */
  readonly control: ReturnType<typeof controlOf> | undefined;
  readonly seamless: Seamless;
  /** How deep states are used again. */
  readonly cache: StepCacheOptions | undefined;
  /** What keeps the attention to the text, of calls of the whole network. */
  readonly attention: AttentionRecord | undefined;
  /** Is told of each call. */
  readonly onCall: () => void;
}

/** What is asked of the network at a call. */
interface Asked {
  readonly given: Conditions;
  readonly seen: BatchStart["seen"];
  readonly cache: StepCache | undefined;
  /** Whether nothing of it is used. */
  readonly anew?: boolean;
  /** Whether the prompts are among the conditions, so that it matters where the network looks. */
  readonly prompted: boolean;
}

/** The denoising network as a sampler's: guided where the request says so, with both conditions in one batch or in turn. */
export function guidedNetwork(
  { predict }: Family,
  sessions: PartSessions,
  {
    conditions,
    guidance,
    inTurn,
    seen,
    signal,
    change,
    control,
    seamless,
    attention,
    onCall,
    ...options
  }: DenoiseOptions,
): Network {
  const { positive, negative } = conditions;
  const both = negative && !inTurn ? joined(negative, positive) : undefined;
  const newCache = () => options.cache && stepCache(options.cache);
  const [cache, cacheWithout] = [newCache(), newCache()];
  const seenTwice = both &&
    seen && { mask: joinBatch([seen.mask, seen.mask]), kept: joinBatch([seen.kept, seen.kept]) };

  // Calls with and without guidance or control take turns, and whole and shallow ones; else another shape's weights need not
  // stay in memory.
  const keep = (guidance.interval || control ? 2 : 1) * (cache ? 2 : 1);

  const run = async (
    [latents, timestep, at]: Parameters<Network>,
    { given, seen: inpainting, cache, anew, prompted }: Asked,
  ): Promise<Samples> => {
    const n = latents.shape[0]!;
    const kept = anew ? undefined : cache?.at(at, n);
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
    if (said.deep) cache!.keep({ deep: said.deep, residuals }, at);
    if (said.attention && prompted) attention!.add(said.attention);
    return said.output!;
  };

  const withPrompt: Asked = { given: positive, seen, cache, prompted: true };
  return async (x, timestep, at) => {
    if (!negative || !guides(guidance, at.level)) return run([x, timestep, at], withPrompt);
    if (!both) {
      // Where one half has nothing to use again, neither has the other: guidance would enlarge the difference.
      const anew = cacheWithout?.at(at, x.shape[0]!) === undefined;
      const half = { given: negative, seen, cache: cacheWithout, anew, prompted: false };
      const without = await run([x, timestep, at], half);
      return guide(await run([x, timestep, at], { ...withPrompt, anew }), without, guidance);
    }
    const asked = { given: both, seen: seenTwice, cache, prompted: true };
    const [unconditional, conditional] = cutBatch(await run([joinBatch([x, x]), timestep, at], asked), 2);
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
