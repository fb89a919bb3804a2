import { UserError } from "../core/errors.ts";
import {
  type ConfiguredSampler,
  type GridName,
  namedSampler,
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
  if (name !== undefined) return namedSampler(name, config, { spread });
  if (spread !== undefined) {
    throw new UserError(`The spread "${spread}" was given without a sampler.`, {
      hint: "Name the sampler it is for, for example euler.",
      field: "spread",
    });
  }
  return samplerFromConfig(config);
}
