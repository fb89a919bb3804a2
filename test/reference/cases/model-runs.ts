import { add, mul, type Tensor } from "../../../src/graph/index.ts";
import { autoencoderKL, diagonalGaussian } from "../../../src/models/autoencoder-kl.ts";
import { autoencoderTiny } from "../../../src/models/autoencoder-tiny.ts";
import { clipText, clipTextWithProjection, type TextStates } from "../../../src/models/clip-text.ts";
import type { Config } from "../../../src/models/config.ts";
import { controlNet } from "../../../src/models/controlnet.ts";
import { dit } from "../../../src/models/dit.ts";
import { flux } from "../../../src/models/flux.ts";
import { pixart } from "../../../src/models/pixart.ts";
import { sd3 } from "../../../src/models/sd3.ts";
import { t5Encoder } from "../../../src/models/t5-encoder.ts";
import { unet2d } from "../../../src/models/unet-2d.ts";
import { unet2dCondition } from "../../../src/models/unet-2d-condition.ts";
import { vqModel } from "../../../src/models/vq-model.ts";
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
  /** A plain argument, undefined where it is not given. */
  kwarg<T>(name: string): T | undefined;
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

const textMask = (run: Run) => (run.has("attention_mask") ? run.float("attention_mask") : undefined);

const textOutputs = ({ last, hidden }: Pick<TextStates, "last" | "hidden">) => ({
  last_hidden_state: last,
  ...Object.fromEntries(hidden.map((state, i) => [`hidden_states.${i}`, state])),
});

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
        scale: run.kwarg<number>("conditioning_scale"),
        guessMode: run.kwarg<boolean>("guess_mode"),
      },
    );
    return { network, outputs: { ...Object.fromEntries(down.map((x, i) => [`down.${i}`, x])), mid } };
  },
  AutoencoderKL(config, run) {
    const network = autoencoderKL(config);
    const moments = network.encode(run.input("image"));
    const { mean, logVariance, deviation, divergence } = diagonalGaussian(moments);
    const outputs = {
      moments,
      mode: mean,
      std: deviation,
      logvar: logVariance,
      sample_with_noise: add(mean, mul(deviation, run.input("noise"))),
      kl: divergence(),
      decoded_mode: network.decode(mean),
      decoded_latent: network.decode(run.input("latent")),
    };
    return { network, outputs };
  },
  AutoencoderTiny(config, run) {
    const network = autoencoderTiny(config);
    const latents = network.encode(run.input("image"));
    const scaled = network.scaleLatents(run.input("latent"));
    const outputs = {
      latents,
      decoded_of_encoded: network.decode(latents),
      decoded_latent: network.decode(run.input("latent")),
      scaled_latents: scaled,
      unscaled: network.unscaleLatents(scaled),
    };
    return { network, outputs };
  },
  VQModel(config, run) {
    const network = vqModel(config);
    const latents = network.encode(run.input("image"));
    const { quantized, indices, codebookError, commitmentError } = network.quantize(latents);
    const outputs = {
      latents,
      quantized,
      indices,
      // With the weight on the side of the codebook, as diffusers has it.
      commit_loss: add(commitmentError, mul(codebookError, 0.25)),
      decoded: network.decode(quantized),
      decoded_not_quantized: network.decode(latents),
    };
    return { network, outputs };
  },
  DiTTransformer2DModel(config, run) {
    const network = dit(config);
    const x = run.input("hidden_states");
    return { network, outputs: { sample: network(x, run.timestep(batchOf(x)), run.input("class_labels")) } };
  },
  PixArtTransformer2DModel(config, run) {
    const network = pixart(config);
    const x = run.input("hidden_states");
    const sample = network(x, run.timestep(batchOf(x)), run.input("encoder_hidden_states"), {
      contextMask: run.has("encoder_attention_mask") ? run.float("encoder_attention_mask") : undefined,
      resolution: run.has("resolution") ? run.float("resolution") : undefined,
      aspectRatio: run.has("aspect_ratio") ? run.float("aspect_ratio") : undefined,
    });
    return { network, outputs: { sample } };
  },
  SD3Transformer2DModel(config, run) {
    const network = sd3(config);
    const x = run.input("hidden_states");
    const text = run.input("encoder_hidden_states");
    const sample = network(x, run.timestep(batchOf(x)), text, run.input("pooled_projections"));
    return { network, outputs: { sample } };
  },
  FluxTransformer2DModel(config, run) {
    const network = flux(config);
    const latents = run.input("hidden_states");
    const sample = network(latents, {
      timestep: run.timestep(batchOf(latents)),
      text: run.input("encoder_hidden_states"),
      pooled: run.input("pooled_projections"),
      imagePositions: run.float("img_ids"),
      textPositions: run.float("txt_ids"),
      guidance: run.optional("guidance"),
    });
    return { network, outputs: { sample } };
  },
  CLIPTextModel(config, run) {
    const network = clipText(config);
    const states = network(run.input("input_ids"), textMask(run));
    return { network, outputs: { ...textOutputs(states), pooler_output: states.pooled } };
  },
  CLIPTextModelWithProjection(config, run) {
    const network = clipTextWithProjection(config);
    const states = network(run.input("input_ids"), textMask(run));
    return { network, outputs: { ...textOutputs(states), text_embeds: states.pooled } };
  },
  T5EncoderModel(config, run) {
    const network = t5Encoder(config);
    return { network, outputs: textOutputs(network(run.input("input_ids"), textMask(run))) };
  },
};
