import { UserError } from "../../core/errors.ts";
import { float32 } from "../../core/host-tensor.ts";
import type { Call, Samples } from "../../diffusion/index.ts";
import { mul, type Tensor } from "../../graph/index.ts";
import { type ControlNet, controlNet, type UNet2DCondition } from "../../models/index.ts";
import type { Part, PartSessions } from "../part-sessions.ts";
import type { Conditions } from "./conditions.ts";
import type { StoredPart } from "./model.ts";
import { type Seamless, seamlessJob } from "./seamless.ts";
import { repeatedTo } from "./source.ts";

/** Builds a control network. Throws a UserError for one that was trained for another U-Net. */
export function controlNetFor(
  { className, config, weights }: StoredPart,
  unet: UNet2DCondition,
  factor: number,
): Part<ControlNet> {
  const path = weights.source;
  const problem = (text: string, hint: string) => new UserError(`${path} ${text}.`, { hint, field: "controlNet" });
  if (className !== "ControlNetModel") {
    throw problem(`holds a ${className ?? "network of unknown class"}`, "A ControlNetModel is needed.");
  }
  const network = controlNet(config);
  const { cross_attention_dim: text, block_out_channels: channels, addition_embed_type: addition } = network.config;
  const fits =
    String(text) === String(unet.config.cross_attention_dim) &&
    String(channels) === String(unet.config.block_out_channels) &&
    addition === unet.config.addition_embed_type &&
    2 ** (network.config.conditioning_embedding_out_channels.length - 1) === factor;
  if (!fits) {
    throw problem(
      `(text of ${text}, channels ${channels}) was made for another model than this (${unet.config.cross_attention_dim}, ${unet.config.block_out_channels})`,
      "Stable Diffusion 1.x, 2.x and XL each need their own.",
    );
  }
  return { name: "controlnet", network, weights };
}

/** What a control network adds to the states of the U-Net, under the names of the U-Net's inputs. */
export type Residuals = Readonly<Record<string, Samples>>;

/** How a picture steers a run. */
export interface Control {
  /** [1, 3, height, width] from 0 to 1. */
  readonly picture: Samples;
  readonly scale: number;
  /** Shares of the run between which it acts. */
  readonly interval: readonly [number, number];
  /** The step the run begins with. */
  readonly first: number;
  readonly seamless: Seamless;
}

export interface ControlCall {
  readonly latents: Samples;
  readonly timestep: number;
  readonly conditions: Conditions;
  readonly signal: AbortSignal | undefined;
}

/** A control network that a picture was given for: undefined where it does not act (Zhang et al. 2023). */
export function controlOf(
  part: Part<ControlNet>,
  sessions: PartSessions,
  { picture, scale, interval, first, seamless }: Control,
): (call: ControlCall, at: Call) => Promise<Residuals | undefined> {
  return async ({ latents, timestep, conditions, signal }, { step, steps }) => {
    const length = steps - first;
    const index = step - first;
    if (scale === 0 || index / length < interval[0] || (index + 1) / length > interval[1]) return undefined;
    const n = latents.shape[0]!;
    const { text, textEmbeds, timeIds } = conditions;
    const job = {
      name: "control",
      feeds: {
        ...{ latents, text },
        ...(part.network.config.addition_embed_type === "text_time"
          ? { textEmbeds: textEmbeds!, timeIds: timeIds! }
          : {}),
        timestep: float32([n], new Float32Array(n).fill(timestep)),
        picture: repeatedTo(picture, [n, ...picture.shape.slice(1)]),
        scale: float32([], [scale]),
      },
      // The picture's embedding and the text's keys and values are those of the step before.
      steady: ["text", "picture", "textEmbeds", "timeIds"],
      graph: (inputs: Readonly<Record<string, Tensor>>) => {
        const { latents, timestep, text, picture, textEmbeds, timeIds } = inputs;
        const { down, mid } = part.network(latents!, timestep!, text!, picture!, { textEmbeds, timeIds });
        const named = [...down.map((x, i) => [`down${i}`, x] as const), ["mid", mid] as const];
        return Object.fromEntries(named.map(([name, x]) => [name, mul(x, inputs.scale!)]));
      },
    };
    return (await sessions.run(seamlessJob(job, seamless), { signal, keep: 1 })) as Residuals;
  };
}

/** The residuals among a graph's inputs, as a U-Net with so many states of the way down takes them. */
export function residualInputs(inputs: Readonly<Record<string, Tensor>>, skips: number) {
  if (!inputs.mid && !inputs.down0) return {};
  return {
    downResiduals: Array.from({ length: skips }, (_, i) => inputs[`down${i}`]),
    midResidual: inputs.mid,
  };
}
