import { type HostTensor, hostTensor } from "../core/host-tensor.ts";

/**
 * The tensors of a LoRA file by the names of diffusers and PEFT, `unet.….lora_A.weight` and `….lora_B.weight`. These have
 * no place for alpha: who reads them takes alpha / rank to be 1. The factor is therefore part of the second matrix.
 *
 * @param weights float32, by the same names, the factor not in them
 */
export function peftTensors(weights: ReadonlyMap<string, HostTensor>, factor: number): Map<string, HostTensor> {
  return new Map(
    [...weights].map(([name, tensor]) => [
      name,
      factor === 1 || !name.endsWith(".lora_B.weight") ? tensor : scaled(tensor, factor),
    ]),
  );
}

/** The prefixes by which kohya's trainer names components. */
const JOINED: Readonly<Record<string, string>> = { unet: "lora_unet", text_encoder: "lora_te" };

/**
 * The same by the names of kohya's trainer, `lora_unet_….lora_down.weight` and `….lora_up.weight`, with each layer's
 * `alpha` beside them.
 */
export function kohyaTensors(weights: ReadonlyMap<string, HostTensor>, alpha: number): Map<string, HostTensor> {
  const tensors = new Map<string, HostTensor>();
  for (const [name, tensor] of weights) {
    const [, part, path, letter] = /^([^.]+)\.(.+)\.lora_([AB])\.weight$/.exec(name)!;
    const layer = `${JOINED[part!]}_${path!.replaceAll(".", "_")}`;
    tensors.set(`${layer}.lora_${letter === "A" ? "down" : "up"}.weight`, tensor);
    tensors.set(`${layer}.alpha`, hostTensor("float32", [], Float32Array.of(alpha)));
  }
  return tensors;
}

function scaled({ shape, data }: HostTensor, factor: number): HostTensor<"float32"> {
  return hostTensor(
    "float32",
    shape,
    (data as Float32Array).map((value) => value * factor),
  );
}
