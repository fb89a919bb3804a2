import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { float32, type HostTensor, sizeOf } from "../core/host-tensor.ts";
import { guidanceEmbedding, type SchedulerConfig, samplerFromConfig } from "../diffusion/index.ts";
import { type Tensor, values } from "../graph/index.ts";
import { type JsonObject, writeJsonObject, writeModelFolder } from "../io/index.ts";
import { type UNet2DCondition, unet2dCondition } from "../models/index.ts";
import { group, namedParameters, type PartGroup } from "../nn/module.ts";
import { writeChangedModel } from "./changed-model-folder.ts";
import type { Condition } from "./condition.ts";
import type { FineTuneMethod } from "./fine-tune-recipe.ts";
import type { BaseModel } from "./pretrained-model.ts";
import { weightsOf } from "./text-condition.ts";

/** Width of the embedding of the guidance that a network is told. */
export const EMBEDDING_WIDTH = 256;

interface Twin {
  readonly unet: UNet2DCondition;
  readonly network: PartGroup;
}

/** The network that learns to draw in few steps, and one for its moving average. */
export interface FewStepNetwork extends Twin {
  readonly averaged: Twin;
  /** Whether it is told the guidance, rather than having one built in. */
  readonly told: boolean;
  start(): ReadonlyMap<string, HostTensor<"float32">>;
  /** What it predicts at a guidance, for pictures of a graph's captions. */
  output(condition: Condition, guidance: number): (x: Tensor, timesteps: Tensor) => Tensor;
  /** Its way to draw. */
  readonly scheduler: SchedulerConfig;
  /** Writes the model's folder with it in the place of the U-Net. */
  write(folder: string, weights: ReadonlyMap<string, HostTensor>): Promise<void>;
}

/**
 * A U-Net like the model's, starting as it is. Where a range of guidance is asked for it has a projection of the guidance
 * besides, which starts at zero (`time_cond_proj_dim`; Luo et al. 2023, section 4.2).
 *
 * @throws UserError for a grid that the model's timesteps are too few for
 */
export async function fewStepNetwork(
  base: BaseModel,
  { guidance, grid }: FineTuneMethod<"distillation">,
): Promise<FewStepNetwork> {
  const told = typeof guidance !== "number";
  const { config: own } = base.stored.unet;
  const { _class_name: _, _diffusers_version: __, ...config } = own;
  const changed = { ...config, time_cond_proj_dim: told ? EMBEDDING_WIDTH : null };
  const twin = (): Twin => {
    const unet = unet2dCondition(changed);
    return { unet, network: group({ unet }) };
  };
  const student = twin();
  const { scheduler } = base;
  const trained = samplerFromConfig(scheduler).options.num_train_timesteps as number;
  if (grid > trained) {
    throw new UserError(`A grid of ${grid} steps has more than the model's ${trained} timesteps.`, {
      field: "method.grid",
    });
  }
  const begin = await base.read(base.names("unet"));
  for (const [name, { shape }] of namedParameters(student.network)) {
    if (!begin.has(name)) begin.set(name, float32(shape, new Float32Array(sizeOf(shape))));
  }
  const sampling = lcmScheduler(scheduler, grid);
  return {
    ...student,
    averaged: twin(),
    told,
    start: () => begin,
    output: (condition, scale) => (x, timesteps) => {
      const n = x.shape[0]!;
      const row = [...guidanceEmbedding(scale - 1, EMBEDDING_WIDTH)];
      const numbers = Float32Array.from({ length: n * EMBEDDING_WIDTH }, (_, i) => row[i % EMBEDDING_WIDTH]!);
      const timestepCondition = told ? values([n, EMBEDDING_WIDTH], numbers) : undefined;
      return student.unet(x, timesteps, condition.states(n).sequence!, { timestepCondition });
    },
    scheduler: sampling,
    write: (folder, weights) => writeDistilled(folder, base, { config: changed, told, sampling }, weights),
  };
}

/** The scheduler of latent consistency models, on the model's own noise schedule. */
function lcmScheduler(scheduler: SchedulerConfig, grid: number): SchedulerConfig {
  const kept = [
    ...["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"],
    ...["prediction_type", "rescale_betas_zero_snr"],
  ];
  const { options } = samplerFromConfig(scheduler);
  return {
    _class_name: "LCMScheduler",
    ...Object.fromEntries(kept.flatMap((name) => (name in options ? [[name, options[name]]] : []))),
    ...{ clip_sample: false, set_alpha_to_one: true, timestep_spacing: "leading" },
    ...{ original_inference_steps: grid, timestep_scaling: 10 },
  };
}

async function writeDistilled(
  folder: string,
  base: BaseModel,
  how: { readonly config: JsonObject; readonly told: boolean; readonly sampling: SchedulerConfig },
  weights: ReadonlyMap<string, HostTensor>,
): Promise<void> {
  const unet = { className: "UNet2DConditionModel", config: how.config, tensors: weightsOf("unet", weights) };
  await writeChangedModel(
    folder,
    base,
    {
      unet: (target) => writeModelFolder(target, unet),
      scheduler: (target) => writeJsonObject(join(target, "scheduler_config.json"), { ...how.sampling }),
    },
    {
      // A network with one guidance built in is no different from others, but for the scheduler.
      ...(how.told ? { _class_name: "LatentConsistencyModelPipeline" } : {}),
      scheduler: ["diffusers", "LCMScheduler"],
    },
  );
}
