import { UserError } from "../core/errors.ts";
import {
  type ConfiguredSampler,
  type GridName,
  namedSampler,
  namedSchedule,
  type SamplerName,
  type SchedulerConfig,
  samplerFromConfig,
} from "../diffusion/index.ts";

/**
 * The sampler of a request: the one of the model's scheduler configuration, or a named one for the same training.
 *
 * @param spread how a named sampler's steps are spread: one of `GRIDS`
 * @throws UserError for a spread of steps without a sampler, and for what the sampler cannot do
 */
export function chooseSampler(
  config: SchedulerConfig,
  name: SamplerName | undefined,
  spread: GridName | undefined,
): ConfiguredSampler {
  if (name !== undefined) return namedSampler(name, withPortableBetas(config, name), { grid: spread });
  if (spread !== undefined) {
    throw new UserError(`The spread "${spread}" was given without a sampler.`, {
      hint: "Name the sampler it is for, for example euler.",
      field: "spread",
    });
  }
  return samplerFromConfig(config);
}

/** Shapes of the schedule that only DDPMScheduler knows are handed to the others as numbers. */
export function withPortableBetas(config: SchedulerConfig, name: SamplerName): SchedulerConfig {
  const shape = config.beta_schedule;
  if (name === "ddpm" || (shape !== "sigmoid" && shape !== "laplace")) return config;
  const { options } = samplerFromConfig(config);
  const { betas } = namedSchedule(shape, {
    steps: options.num_train_timesteps as number,
    start: options.beta_start as number,
    end: options.beta_end as number,
  });
  return { ...config, beta_schedule: "linear", trained_betas: Array.from(betas) };
}
