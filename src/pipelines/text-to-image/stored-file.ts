import { UserError } from "../../core/errors.ts";
import { openTokenizer } from "../../io/index.ts";
import type { OriginalComponent } from "../../models/index.ts";
import { OPEN_CLIP_PADDING, openSingleFile } from "../single-file.ts";
import { stableDiffusion } from "./families/stable-diffusion.ts";
import type { OpenModelOptions, StoredModel, StoredPart } from "./model.ts";
import { storedControlNet, storedVae } from "./stored-part.ts";

/** Reads a single-file checkpoint, with a tokenizer from elsewhere. UserErrors as of `openTextToImage`. */
export async function storedFile(
  path: string,
  { vae, previewVae, controlNet, scheduler, tokenizer, prediction, variant, hub }: OpenModelOptions,
): Promise<StoredModel> {
  if (tokenizer === undefined) {
    throw new UserError(`${path} is a single file, which has no tokenizer.`, {
      hint: "Give `tokenizer`: the folder tokenizer/ of any Stable Diffusion in diffusers' layout (vocab.json, merges.txt).",
      field: "tokenizer",
    });
  }
  checkPrediction(prediction, scheduler);
  const { parts, family, externalData, notes, scheduler: own } = await openSingleFile(path, { prediction });
  const stored = ({ className, config, weights }: OriginalComponent): StoredPart => ({
    className,
    config,
    weights: { source: path, bound: weights, externalData },
  });
  if (!parts.unet || !own) {
    throw new UserError(`${path} holds no U-Net, only ${Object.keys(parts).join(", ") || "nothing that is known"}.`, {
      hint: "An autoencoder alone is given as `vae`, beside a model.",
      field: "model",
    });
  }
  // The second encoder of XL and the only one of 2.x are OpenCLIP's.
  const padding = (name: string) => (name === "text_encoder_2" || family === "2.x" ? OPEN_CLIP_PADDING : undefined);
  const encoders = (["text_encoder", "text_encoder_2"] as const).filter((name) => parts[name]);
  const warnings = [...notes];
  const choice = { variant, hub, own: parts.vae?.config, warn: (warning: string) => void warnings.push(warning) };
  return {
    path,
    className: `single file of Stable Diffusion ${family}`,
    kind: stableDiffusion,
    denoiser: stored(parts.unet),
    vae: vae === undefined ? parts.vae && stored(parts.vae) : await storedVae(vae, { ...choice, field: "vae" }),
    previewVae: previewVae === undefined ? undefined : await storedVae(previewVae, { ...choice, field: "previewVae" }),
    textEncoders: await Promise.all(
      encoders.map(async (name) => ({
        name,
        part: stored(parts[name]!),
        tokenizer: await openTokenizer(tokenizer, { padding: padding(name) }),
      })),
    ),
    controlNet: controlNet === undefined ? undefined : await storedControlNet(controlNet, choice),
    scheduler: scheduler ?? own,
    aestheticScore: family === "XL refiner",
    zerosForEmptyPrompt: family === "XL" || family === "XL refiner",
    warnings,
  };
}

function checkPrediction(given: OpenModelOptions["prediction"], scheduler: OpenModelOptions["scheduler"]): void {
  if (given === undefined) return;
  const problem = (text: string, hint: string) => new UserError(text, { hint, field: "prediction" });
  if (given !== "epsilon" && given !== "v_prediction") {
    throw problem(`A U-Net predicts no ${JSON.stringify(given)}.`, 'It is "epsilon" or "v_prediction".');
  }
  if (scheduler === undefined) return;
  throw problem("`prediction` was given beside `scheduler`.", "Say it as prediction_type in the scheduler alone.");
}
