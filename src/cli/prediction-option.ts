import { Option } from "commander";

/** `--prediction`: what a single file of Stable Diffusion 2.x does not say. */
export function predictionOption(): Option {
  return new Option(
    "--prediction <kind>",
    "what the U-Net of a model in a single file predicts (default: what it says, or v_prediction of 2.x)",
  ).choices(["epsilon", "v_prediction"]);
}
