import { UserError } from "../core/errors.ts";
import { type Shape, sizeOf } from "../core/host-tensor.ts";
import { type JsonObject, type ModelWeights, readModelFolder, weightVariants } from "../io/index.ts";
import { matchWeights, networkName, networks, type Weighted } from "../models/index.ts";
import { externalWeights } from "../pipelines/single-file.ts";

/** One tensor of a file. */
export interface TensorFacts {
  readonly name: string;
  readonly dtype: string;
  readonly shape: Shape;
  readonly bytes: number;
}

/** A network on disk. */
export interface ModelFacts {
  readonly name: string;
  readonly className: string | undefined;
  /** Which of its weights these are, such as `fp16`, where they have a name. */
  readonly variant?: string;
  readonly parameters: number;
  readonly bytes: number;
  readonly dtypes: readonly string[];
  /** Parameters by the first step of their names, such as `encoder` and `decoder`. */
  readonly groups: readonly { readonly name: string; readonly parameters: number }[];
  /** Why these weights do not make this network: what is missing, unknown or of another shape; or that it is not built. */
  readonly problem?: string;
  /** Whether networks of its class are built here; of others nothing can be said of the weights. */
  readonly built: boolean;
  readonly config: JsonObject;
  readonly tensors: readonly TensorFacts[];
}

/**
 * A model folder: its configuration, and the headers of its weights.
 *
 * @param variant of the weights; where nothing is said, the only ones that there are
 * @throws UserError for a folder that cannot be read
 */
export async function modelFacts(path: string, name: string, variant?: string): Promise<ModelFacts> {
  const taken = variant ?? (await onlyVariant(path));
  const { className, config, weights } = await readModelFolder(path, { variant: taken });
  const tensors = tensorFacts(weights);
  return {
    ...{ name, className },
    ...(taken === undefined ? {} : { variant: taken }),
    ...totals(tensors),
    groups: groupsOf(tensors),
    ...fitOf(config, weights),
    ...{ config, tensors },
  };
}

async function onlyVariant(path: string): Promise<string | undefined> {
  const there = await weightVariants(path);
  return there.length === 1 ? there[0] || undefined : undefined;
}

/** Why the weights do not make the network of the configuration, if they do not. */
function fitOf(config: JsonObject, weights: ModelWeights): Pick<ModelFacts, "problem" | "built"> {
  let built = false;
  try {
    const name = networkName(config);
    built = true;
    matchWeights(networks[name](config as never) as Weighted, externalWeights(weights).weights, {
      what: weights.source,
    });
    return { built };
  } catch (error) {
    if (error instanceof UserError) return { built, problem: error.message };
    throw error;
  }
}

/** Parameters by the first step of their names. */
export function groupsOf(tensors: readonly TensorFacts[]): ModelFacts["groups"] {
  const groups = new Map<string, number>();
  for (const { name, shape } of tensors) {
    const [first, second = ""] = name.split(".");
    // A part that holds everything says nothing: its own parts do.
    const group = first === "text_model" ? `${first}.${second}` : first!;
    groups.set(group, (groups.get(group) ?? 0) + sizeOf(shape));
  }
  return [...groups].map(([name, parameters]) => ({ name, parameters }));
}

export function tensorFacts({ tensors }: ModelWeights): TensorFacts[] {
  return [...tensors].map(([name, { dtype, shape, length }]) => ({ name, dtype, shape, bytes: length }));
}

export function totals(tensors: readonly TensorFacts[]): Pick<ModelFacts, "parameters" | "bytes" | "dtypes"> {
  return {
    parameters: tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    dtypes: [...new Set(tensors.map(({ dtype }) => dtype))].sort(),
  };
}
