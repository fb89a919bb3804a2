import type { Tensor } from "../../../src/graph/index.ts";
import type { Config } from "../../../src/models/config.ts";
import { unet2d } from "../../../src/models/unet-2d.ts";
import type { Weighted } from "../../../src/models/weights.ts";

/** What a case gives a network. */
export interface Run {
  has(name: string): boolean;
  /** The input called `name`. */
  input(name: string): Tensor;
  /** The same, converted to float32. */
  float(name: string): Tensor;
  optional(name: string): Tensor | undefined;
  /** The timesteps of the batch, as float32. */
  timestep(batch: number): Tensor;
  readonly kwargs: Readonly<Record<string, unknown>>;
  /** Names of the outputs that are compared. */
  readonly wanted: readonly string[];
}

/** Builds a network and its results for a case. */
export type Runner = (config: Config, run: Run) => { network: Weighted; outputs: Record<string, Tensor> };

const batchOf = (x: Tensor) => x.shape[0]!;

/** How each class of networks is called. */
export const runners: Readonly<Record<string, Runner>> = {
  UNet2DModel(config, run) {
    const network = unet2d(config);
    const sample = run.input("sample");
    const outputs = { sample: network(sample, run.timestep(batchOf(sample)), run.optional("class_labels")) };
    return { network, outputs };
  },
};
