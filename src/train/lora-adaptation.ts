import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { sizeOf } from "../core/host-tensor.ts";
import { scalar, type Tensor } from "../graph/index.ts";
import { writeSafetensors } from "../io/index.ts";
import { initialize, kohyaTensors, peftTensors } from "../models/index.ts";
import { type LowRank, withLowRank } from "../nn/low-rank.ts";
import { group, type Initializer, namedParameters, type Parameter, type PartGroup, parameter } from "../nn/module.ts";
import { type Adaptation, learningNetwork } from "./adaptation.ts";
import type { FineTuneMethod } from "./fine-tune-recipe.ts";
import { matchingNames } from "./name-patterns.ts";
import type { BaseModel } from "./pretrained-model.ts";

/** What diffusers looks for in a LoRA's folder. */
const FILE = "pytorch_lora_weights.safetensors";

/**
 * Low-rank updates learn and the model stays as it is (Hu et al. 2021, "LoRA", eq. 3): h = W·x + alpha/rank · B·A·x with B
 * starting at zero, so that training begins at the model. Layers are linear ones and convolutions, by the names of their
 * weights without `.weight`. Written in the naming of diffusers and PEFT, and if asked for in that of kohya's trainer.
 *
 * @throws UserError for patterns that fit no such layer
 */
export function lowRankUpdates(base: BaseModel, method: FineTuneMethod<"lora">): Adaptation {
  const { rank, alpha = rank, initial, kohya } = method;
  const layers = layersOf(learningNetwork(base));
  const chosen = [...matchingNames(method.targets, layers.keys(), "method.targets")];
  const scale = scalar(alpha / rank);
  const branches = new Map<Tensor, readonly LowRank[]>();
  const parts: Record<string, PartGroup> = {};
  for (const layer of chosen) {
    const { tensor, shape } = layers.get(layer)!;
    const [outputs, inputs, ...kernel] = shape as [number, number, ...number[]];
    if (rank > Math.min(outputs, sizeOf(shape) / outputs)) {
      throw new UserError(`An update of rank ${rank} is more than the layer ${layer} [${shape}] itself.`, {
        hint: "Choose a smaller rank, or leave this layer out of the targets.",
        field: "method.rank",
      });
    }
    const A = parameter([rank, inputs, ...kernel], startOf(initial, rank, inputs * sizeOf(kernel)));
    const B = parameter([outputs, rank, ...kernel.map(() => 1)], { kind: "constant", value: 0 });
    branches.set(tensor, [{ down: A.tensor, up: B.tensor, scale }]);
    parts[layer] = group({ lora_A: group({ weight: A }), lora_B: group({ weight: B }) });
  }
  const network = group(parts);
  return {
    network,
    learnsText: chosen.some((layer) => layer.startsWith("text_encoder.")),
    apply: (build) => withLowRank(branches, build),
    start: (random) => initialize(network, random),
    async write(folder, weights) {
      const metadata = { format: "pt" };
      await writeSafetensors(join(folder, FILE), peftTensors(weights, alpha / rank), metadata);
      if (kohya) await writeSafetensors(join(folder, "kohya.safetensors"), kohyaTensors(weights, alpha), metadata);
    },
  };
}

/** The weights that an update can be added to, by the names of their layers. */
function layersOf(network: PartGroup): Map<string, Parameter> {
  const layers = new Map<string, Parameter>();
  for (const [name, each] of namedParameters(network)) {
    // A table of embeddings is looked up, not multiplied with.
    const isTable = /(token|position)_embedding\.weight$/.test(name);
    if (name.endsWith(".weight") && each.shape.length >= 2 && !isTable)
      layers.set(name.slice(0, -".weight".length), each);
  }
  return layers;
}

/** PEFT's two ways to start A: its default, a linear layer's own (He et al. 2015 with a = √5), and normal with deviation 1/rank. */
function startOf(initial: "kaiming" | "gaussian", rank: number, inputs: number): Initializer {
  if (initial === "gaussian") return { kind: "normal", deviation: 1 / rank };
  return { kind: "uniform", bound: 1 / Math.sqrt(inputs) };
}
