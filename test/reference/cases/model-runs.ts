import type { Tensor } from "../../../src/graph/index.ts";
import type { Config } from "../../../src/models/config.ts";
import { controlNet } from "../../../src/models/controlnet.ts";
import { unet2d } from "../../../src/models/unet-2d.ts";
import { unet2dCondition } from "../../../src/models/unet-2d-condition.ts";
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

const conditions = (run: Run) => ({
  classLabels: run.optional("class_labels"),
  timestepCondition: run.optional("timestep_cond"),
  textEmbeds: run.optional("added.text_embeds"),
  timeIds: run.has("added.time_ids") ? run.float("added.time_ids") : undefined,
  contextMask: run.has("encoder_attention_mask") ? run.float("encoder_attention_mask") : undefined,
});

const batchOf = (x: Tensor) => x.shape[0]!;

/** How each class of networks is called. */
export const runners: Readonly<Record<string, Runner>> = {
  UNet2DModel(config, run) {
    const network = unet2d(config);
    const sample = run.input("sample");
    const outputs = { sample: network(sample, run.timestep(batchOf(sample)), run.optional("class_labels")) };
    return { network, outputs };
  },
  UNet2DConditionModel(config, run) {
    const network = unet2dCondition(config);
    const sample = run.input("sample");
    const time = run.timestep(batchOf(sample));
    const text = run.input("encoder_hidden_states");
    const downResiduals: Tensor[] = [];
    while (run.has(`down_residual.${downResiduals.length}`)) {
      downResiduals.push(run.input(`down_residual.${downResiduals.length}`));
    }
    const control = downResiduals.length > 0 ? { downResiduals, midResidual: run.optional("mid_residual") } : undefined;
    const outputs: Record<string, Tensor> = {
      sample: network(sample, time, text, { ...conditions(run), ...control }),
    };
    if (control) outputs.sample_without_residuals = network(sample, time, text, conditions(run));
    return { network, outputs };
  },
  ControlNetModel(config, run) {
    const network = controlNet(config);
    const sample = run.input("sample");
    const { down, mid } = network(
      sample,
      run.timestep(batchOf(sample)),
      run.input("encoder_hidden_states"),
      run.input("controlnet_cond"),
      {
        ...conditions(run),
        scale: run.kwargs.conditioning_scale as number | undefined,
        guessMode: run.kwargs.guess_mode as boolean | undefined,
      },
    );
    return { network, outputs: { ...Object.fromEntries(down.map((x, i) => [`down.${i}`, x])), mid } };
  },
};
