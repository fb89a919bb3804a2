import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { float32, type HostTensor, type Shape } from "../../../src/core/host-tensor.ts";
import { seeded } from "../../../src/core/random.ts";
import {
  addNoise,
  type BetaSchedule,
  customSchedule,
  fixedVariance,
  learnedRangeLogVariance,
  type NoiseSchedule,
  type NoiseSource,
  namedSchedule,
  noiseFrom,
  posterior,
  recordedNoise,
  samplerFromConfig,
  velocity,
} from "../../../src/diffusion/index.ts";
import { readSafetensors } from "../../../src/io/safetensors.ts";
import type { CaseKind, Comparison, ReferenceCase } from "../case.ts";
import { compare } from "../case.ts";

type Config = Readonly<Record<string, unknown>>;

interface ProcessFile {
  readonly schedules: readonly { readonly name: string; readonly config: Config }[];
  readonly variance: readonly {
    readonly config: Config;
    readonly num_inference_steps: number | null;
    readonly rows: readonly { readonly t: number; readonly value: number; readonly predicted_variance?: number }[];
  }[];
  readonly add_noise: readonly {
    readonly schedule: string;
    readonly timesteps: readonly number[];
    readonly add_noise: string;
    readonly velocity: string;
  }[];
  readonly p_sample: readonly {
    readonly key: string;
    readonly config: Config;
    readonly num_inference_steps: number | null;
    readonly t: number;
    readonly has_noise: boolean;
    readonly generator_seed?: number;
  }[];
}

type Tensors = (name: string) => Promise<HostTensor<"float32">>;

/** The numbers of the diffusion process (`process.json`, `process.safetensors`). */
export const process: CaseKind = {
  kind: "process",
  async discover(folder) {
    const text = await readFile(join(folder, "process.json"), "utf8").catch(() => null);
    const path = join(folder, "process.safetensors");
    if (
      text === null ||
      !(await access(path).then(
        () => true,
        () => false,
      ))
    )
      return [];
    const file = JSON.parse(text) as ProcessFile;
    let all: Promise<Map<string, HostTensor>> | undefined;
    const tensors: Tensors = async (name) => {
      all ??= readSafetensors(path);
      const tensor = (await all).get(name);
      if (tensor?.dtype !== "float32") throw new Error(`there is no float32 tensor "${name}"`);
      return tensor as HostTensor<"float32">;
    };
    return [
      ...file.schedules.map((entry) => named(`schedule-${entry.name}`, () => checkSchedule(entry, tensors))),
      ...file.add_noise.map((entry) => named(entry.add_noise, () => checkAddNoise(entry, file, tensors))),
      ...file.variance.map((entry, i) =>
        named(`variance.${i}-${String(entry.config.variance_type)}`, async () => checkVariance(entry)),
      ),
      ...file.p_sample.map((entry) => named(entry.key, () => checkStep(entry, tensors))),
    ];
  },
};

function named(name: string, run: () => Promise<Comparison[]>): ReferenceCase {
  return { name: `process/${name}`, run };
}

export function scheduleOf(config: Config): NoiseSchedule {
  const zeroTerminalSnr = config.rescale_betas_zero_snr === true;
  if (Array.isArray(config.trained_betas)) return customSchedule(config.trained_betas as number[], { zeroTerminalSnr });
  return namedSchedule((config.beta_schedule as BetaSchedule | undefined) ?? "linear", {
    steps: (config.num_train_timesteps as number | undefined) ?? 1000,
    start: (config.beta_start as number | undefined) ?? 1e-4,
    end: (config.beta_end as number | undefined) ?? 0.02,
    zeroTerminalSnr,
  });
}

async function checkSchedule(entry: ProcessFile["schedules"][number], tensors: Tensors): Promise<Comparison[]> {
  const schedule = scheduleOf(entry.config);
  const betas = await tensors(`betas.${entry.name}`);
  const alphas = await tensors(`alphas_cumprod.${entry.name}`);
  // Exact but for two functions of torch that are not rounded correctly: its square root (see the exceptions of the
  // schedulers), which a terminal SNR of zero takes, and the exponential of the sigmoid.
  const rescaled = entry.config.rescale_betas_zero_snr === true;
  const sigmoid = entry.config.beta_schedule === "sigmoid";
  return [
    compare(
      "betas",
      schedule.betas,
      betas.data,
      rescaled ? { absolute: sigmoid ? 5e-6 : 5e-7 } : { relative: sigmoid ? 2e-7 : 0 },
    ),
    compare("alphas_cumprod", schedule.alphasCumprod, alphas.data, { absolute: rescaled || sigmoid ? 3e-7 : 0 }),
  ];
}

async function checkAddNoise(
  entry: ProcessFile["add_noise"][number],
  file: ProcessFile,
  tensors: Tensors,
): Promise<Comparison[]> {
  const config = file.schedules.find(({ name }) => name === entry.schedule)!.config;
  const schedule = scheduleOf(config);
  const [x0, noise, noisy, v] = await Promise.all(["x0", "noise", entry.add_noise, entry.velocity].map(tensors));
  return [
    compare("add_noise", addNoise(schedule, x0!, noise!, entry.timesteps).data, noisy!.data, { absolute: 3e-5 }),
    compare("velocity", velocity(schedule, x0!, noise!, entry.timesteps).data, v!.data, { absolute: 3e-5 }),
  ];
}

/** What diffusers' `_get_variance` returns: a variance, a deviation or a logarithm, by its type. */
function checkVariance({ config, num_inference_steps, rows }: ProcessFile["variance"][number]): Comparison[] {
  const schedule = scheduleOf(config);
  const previous = previousTimestep(config, num_inference_steps);
  return rows.map(({ t, value, predicted_variance = 0 }) => {
    const at = posterior(schedule, t, previous(t));
    const type = String(config.variance_type);
    const small = fixedVariance("small", at);
    const ours =
      type === "learned_range"
        ? learnedRangeLogVariance(predicted_variance, at)
        : type === "fixed_small_log"
          ? Math.sqrt(small)
          : type === "fixed_large_log"
            ? Math.log(at.beta)
            : fixedVariance(type === "fixed_large" ? "large" : "small", at);
    return compare(`t=${t}`, [ours], [value], { relative: t < 100 ? 2e-3 : 2e-4, absolute: 1e-15 });
  });
}

/** One step from a timestep: a network that says what the case says, and the state after its step. */
async function checkStep(entry: ProcessFile["p_sample"][number], tensors: Tensors): Promise<Comparison[]> {
  const { key, config, num_inference_steps, t } = entry;
  const learned = String(config.variance_type).startsWith("learned");
  const [x, output, expected, expectedX0] = await Promise.all(
    ["x_t", "model_output", `${key}.prev_sample`, `${key}.pred_original_sample`].map(tensors),
  );
  const said = learned ? joined(output!, await tensors("model_variance")) : output!;
  const trained = (config.num_train_timesteps as number | undefined) ?? 1000;
  // Without a number of steps the chain is the whole of training.
  const whole = Array.from({ length: trained }, (_, i) => trained - 1 - i);
  const sampler = samplerFromConfig({ _class_name: "DDPMScheduler", ...config });
  const plan = sampler.plan(num_inference_steps === null ? { timesteps: whole } : { steps: num_inference_steps });
  const sources: [string, NoiseSource][] = [];
  if (!entry.has_noise) sources.push(["no noise", recordedNoise([])]);
  else {
    sources.push(["recorded noise", recordedNoise([(await tensors(`${key}.noise`)).data])]);
    if (entry.generator_seed !== undefined) sources.push(["seeded noise", noiseFrom(seeded(entry.generator_seed))]);
  }
  const results: Comparison[] = [];
  for (const [what, noise] of sources) {
    const run = plan.sample(async () => said, x!, { noise, first: plan.timesteps.indexOf(t) });
    const { value: state } = await run.next();
    await run.return();
    if (!state) throw new Error(`timestep ${t} is not in the plan`);
    const unclipped = config.clip_sample === false && !config.thresholding;
    const epsilon = ((config.prediction_type as string | undefined) ?? "epsilon") === "epsilon";
    results.push(
      compare(`${what}: prev_sample`, state.x.data, expected!.data, { absolute: t < 3 ? 5e-4 : 1e-5 }),
      compare(`${what}: pred_original_sample`, state.x0.data, expectedX0!.data, {
        absolute: epsilon && unclipped && t >= 900 ? 3e-4 : 1e-5,
      }),
    );
  }
  return results;
}

function previousTimestep(config: Config, steps: number | null): (t: number) => number {
  if (steps === null) return (t) => t - 1;
  const { timesteps } = samplerFromConfig({ _class_name: "DDPMScheduler", ...config }).plan({ steps });
  return (t) => timesteps[timesteps.indexOf(t) + 1] ?? -1;
}

/** Prediction and variance along the channel axis, as a network that learns both answers. */
function joined(output: HostTensor<"float32">, variance: HostTensor<"float32">): HostTensor<"float32"> {
  const [images = 1, channels = 1, ...rest] = output.shape;
  const size = output.data.length / images;
  const data = new Float32Array(2 * output.data.length);
  for (let n = 0; n < images; n++) {
    data.set(output.data.subarray(n * size, (n + 1) * size), 2 * n * size);
    data.set(variance.data.subarray(n * size, (n + 1) * size), (2 * n + 1) * size);
  }
  const shape: Shape = [images, 2 * channels, ...rest];
  return float32(shape, data);
}
