import { z } from "zod";
import { UserError } from "../core/errors.ts";

/** PEFT's `LoraConfig`: what `adapter_config.json` holds, and for each component diffusers' `lora_adapter_metadata`. */
export type PeftConfig = Readonly<Record<string, unknown>>;

/** Finds the alpha of a layer, such that alpha / rank is its factor. */
export type AlphaOf = (path: string, rank: number) => number;

const positive = "a number above 0 is needed";
const pattern = z.record(z.string(), z.number(positive).positive(positive), "layers with a number each are needed");

/** What the mathematics depends on, with PEFT's defaults. */
const fields = z.object({
  peft_type: z.literal("LORA", 'only "LORA" is supported').nullish(),
  r: z.number(positive).positive(positive).default(8),
  lora_alpha: z.number("a number is needed").default(8),
  rank_pattern: pattern.nullish(),
  alpha_pattern: z.record(z.string(), z.number("a number is needed"), "layers with a number each are needed").nullish(),
  use_rslora: z.boolean("true or false is needed").nullish(),
  use_dora: z.literal(false, "DoRA (rescaled weights) is not supported").nullish(),
  bias: z.literal("none", 'only "none" is supported: biases that were trained along are not added').nullish(),
  init_lora_weights: z
    .union(
      [z.boolean(), z.enum(["gaussian", "eva", "orthogonal", "mica"])],
      "it takes something off the model's weights, so that it acts on others than the model's",
    )
    .nullish(),
});

/** Fields about the training and the model that it was made for. What they say of the result is in the tensors. */
const BOOKKEEPING = new Set([
  "auto_mapping",
  "base_model_name_or_path",
  "corda_config",
  "ensure_weight_tying",
  "eva_config",
  "exclude_modules",
  "inference_mode",
  "layers_pattern",
  "layers_to_transform",
  "loftq_config",
  "lora_dropout",
  "lora_ga_config",
  "megatron_config",
  "megatron_core",
  "peft_version",
  // The group's size counts only with use_qalora.
  "qalora_group_size",
  "revision",
  "runtime_config",
  "target_modules",
  "task_type",
  "velora_config",
]);

/**
 * Reads PEFT's configuration of a LoRA (Hu et al. 2021): how strongly its layers act.
 *
 * @param config fields that are not known are taken where they are switched off
 * @param what to call it in messages
 * @throws UserError that names what cannot be taken: other kinds of adapters and what else changes the mathematics
 */
export function peftAlphas(config: PeftConfig, what: string): AlphaOf {
  const result = fields.safeParse(config, { reportInput: true });
  const problems = result.success
    ? []
    : result.error.issues.map(({ path, input, message }) => [path.join("."), input, message] as const);
  for (const [name, value] of Object.entries(config)) {
    if (Object.hasOwn(fields.shape, name) || BOOKKEEPING.has(name) || isOff(value)) continue;
    problems.push([name, value, "this is more than a plain LoRA"]);
  }
  if (!result.success || problems.length > 0) {
    const lines = problems.map(([name, value, text]) => `  "${name}" is ${JSON.stringify(value)}; ${text}`);
    throw new UserError(`${what} cannot be taken:\n${lines.join("\n")}`, {
      hint: "Read are plain LoRAs. PEFT saves PiSSA and the like as one with `path_initial_model_for_weight_conversion`.",
      field: "lora",
    });
  }
  const { r, lora_alpha, rank_pattern, alpha_pattern, use_rslora } = result.data;
  const rankOf = byPattern(rank_pattern ?? {}, what);
  const alphaOf = byPattern(alpha_pattern ?? {}, what);
  return (path, rank) => {
    const said = rankOf(path) ?? r;
    if (said !== rank) {
      throw new UserError(`${what} says that ${path} has rank ${said}; the file's has ${rank}.`, {
        hint: "Get both files again: they do not belong together.",
        field: "lora",
      });
    }
    const alpha = alphaOf(path) ?? lora_alpha;
    // Rank-stabilized LoRA (Kalajdzievski 2023) divides by the square root of the rank.
    return use_rslora ? alpha * Math.sqrt(rank) : alpha;
  };
}

function isOff(value: unknown): boolean {
  return value === null || value === false || (typeof value === "object" && Object.keys(value).length === 0);
}

/** PEFT's patterns: regular expressions for the end of a layer's path, from a whole name on. The first that fits counts. */
function byPattern(patterns: Readonly<Record<string, number>>, what: string): (path: string) => number | undefined {
  const compiled = Object.entries(patterns).map(([text, value]) => {
    try {
      return [new RegExp(`^(?:.*\\.)?(?:${text})$`), value] as const;
    } catch {
      throw new UserError(`${what} has a pattern that is no regular expression: ${text}.`, { field: "lora" });
    }
  });
  return (path) => compiled.find(([expression]) => expression.test(path))?.[1];
}
