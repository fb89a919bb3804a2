import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import type { Random } from "../core/random.ts";
import { writeModelFolder } from "../io/index.ts";
import { group, namedParameters, type Parameter, type PartGroup } from "../nn/module.ts";
import { writeChangedModel } from "./changed-model-folder.ts";
import type { FineTuneMethod } from "./fine-tune-recipe.ts";
import type { OwnWord } from "./loaded-text.ts";
import { matchingNames } from "./name-patterns.ts";
import { type BaseModel, LEARNING_PARTS, type LearningPart } from "./pretrained-model.ts";
import { weightsOf } from "./text-condition.ts";

/** What of a model learns: the parameters, how a graph comes to use them, and what is written of them. */
export interface Adaptation {
  /** What learns, and nothing else: it alone is in the optimizer's state and in checkpoints. */
  readonly network: PartGroup;
  /** Whether the text encoder must be part of the graph; otherwise texts are encoded once. */
  readonly learnsText: boolean;
  /** A word that captions are to have. */
  readonly own?: OwnWord;
  /** Builds a graph of the model as it is changed. */
  apply<T>(build: () => T): T;
  start(random: Random): ReadonlyMap<string, HostTensor<"float32">>;
  /** Writes what was learned into a folder. */
  write(folder: string, weights: ReadonlyMap<string, HostTensor>): Promise<void>;
}

/** The model's networks that can learn as one: names begin with those of their folders. */
export function learningNetwork({ unet, textEncoder }: Pick<BaseModel, "unet" | "textEncoder">): PartGroup {
  return group({ unet, text_encoder: textEncoder });
}

/** Some parameters under their full names: what learns where others do not. */
export function chosenParameters(parameters: ReadonlyMap<string, Parameter>, names: ReadonlySet<string>): PartGroup {
  return group(Object.fromEntries([...parameters].filter(([name]) => names.has(name))));
}

/**
 * Parameters of the model itself learn, from the numbers they have. The result is a pipeline folder like the model's.
 * @throws UserError for patterns that fit nothing, and where nothing is left to learn
 */
export async function ownParameters(base: BaseModel, method: FineTuneMethod<"full">): Promise<Adaptation> {
  const parameters = namedParameters(learningNetwork(base));
  const names = [...parameters].flatMap(([name, { trainable }]) => (trainable ? [name] : []));
  const chosen = matchingNames(method.trainable, names, "method.trainable");
  for (const name of matchingNames(method.frozen, chosen, "method.frozen")) chosen.delete(name);
  if (chosen.size === 0) {
    throw new UserError("Every parameter that the recipe names as trainable is frozen too.", {
      hint: "Leave some of them out of frozen.",
      field: "method.frozen",
    });
  }
  const values = await base.read(chosen);
  const parts = LEARNING_PARTS.filter((part) => [...chosen].some((name) => name.startsWith(`${part}.`)));
  return {
    network: chosenParameters(parameters, chosen),
    learnsText: parts.includes("text_encoder"),
    apply: (build) => build(),
    start: () => values,
    write: (folder, weights) => writeParts(folder, base, parts, weights),
  };
}

/** Writes the model's folder with some of its networks changed; the weights of these are float32. */
async function writeParts(
  folder: string,
  base: BaseModel,
  parts: readonly LearningPart[],
  weights: ReadonlyMap<string, HostTensor>,
): Promise<void> {
  const write = (part: LearningPart) => async (target: string) => {
    const { _class_name: _, _diffusers_version: __, ...config } = base.stored[part].config;
    const tensors = new Map<string, HostTensor>([...(await base.read(base.names(part))), ...weights]);
    await writeModelFolder(
      target,
      { config, className: CLASSES[part], tensors: weightsOf(part, tensors) },
      { library: part === "unet" ? "diffusers" : "transformers" },
    );
  };
  await writeChangedModel(folder, base, Object.fromEntries(parts.map((part) => [part, write(part)])));
}

const CLASSES = { unet: "UNet2DConditionModel", text_encoder: "CLIPTextModel" } as const;
