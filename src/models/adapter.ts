import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { type PeftConfig, peftAlphas } from "./peft-config.ts";

/** One low-rank update of a file, under the layer's name as it stands there. */
export interface AdapterLayer {
  /** As in the file, without what says down or up. */
  readonly key: string;
  /** The component that the name begins with (`unet`, `text_encoder` …), if it names one. */
  readonly part: string | undefined;
  /** The layer's path in the component; with `joined`, dots are underscores. */
  readonly path: string;
  readonly joined: boolean;
  readonly down: HostTensor;
  readonly up: HostTensor;
  /** The update is scale · alpha / rank · up·down; without alpha that factor is the scale alone. */
  readonly alpha: HostTensor | number | undefined;
}

/** A LoRA file: low-rank updates of a network's weights (Hu et al. 2021). */
export interface Adapter {
  /** What messages and scale inputs call it. */
  readonly name: string;
  readonly layers: readonly AdapterLayer[];
}

/** Components by the prefix that kohya's trainer gives to names; longer ones first. */
const JOINED_PARTS: readonly (readonly [string, string])[] = [
  ["lora_transformer_", "transformer"],
  ["lora_unet_", "unet"],
  ["lora_te1_", "text_encoder"],
  ["lora_te2_", "text_encoder_2"],
  ["lora_te3_", "text_encoder_3"],
  ["lora_te_", "text_encoder"],
];

const DOTTED_PARTS = /^(unet|transformer|text_encoder|text_encoder_2|text_encoder_3|controlnet)\.(.+)$/;

/** Kinds of adapters that are other mathematics than up·down. */
const OTHER_KINDS: readonly (readonly [RegExp, string])[] = [
  [/\.(hada_w|hada_t)/, "LoHa (Hadamard products)"],
  [/\.lokr_/, "LoKr (Kronecker products)"],
  [/\.(dora_scale|lora_magnitude_vector)/, "DoRA (rescaled weights)"],
  [/\.lora_mid\./, "LoCon with a third matrix (CP decomposition)"],
  [/\.(oft_|boft_)/, "OFT (orthogonal rotations)"],
];

type Role = "down" | "up" | "alpha";

/** What is known of a LoRA beside its tensors. */
export interface AdapterOptions {
  readonly name: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly config?: PeftConfig;
}

/**
 * Reads the tensors of a LoRA file: names of diffusers and PEFT (`lora_A`/`lora_B`), of older diffusers (`lora.down`,
 * `lora.up`, `to_q_lora.down`) and of kohya's trainer (`lora_unet_…`, `lora_te_…` with `alpha`).
 *
 * @param tensors of the file, by name
 * @param options.metadata the file's own notes: newer versions of diffusers keep alpha there
 * @param options.config PEFT's `adapter_config.json`, which says alpha for files that PEFT wrote
 * @throws UserError that lists the names that are no part of a LoRA, and layers of which a half is missing
 */
export function readAdapter(
  tensors: ReadonlyMap<string, HostTensor>,
  { name, metadata = {}, config }: AdapterOptions,
): Adapter {
  const found = new Map<string, Partial<Record<Role, HostTensor>>>();
  const strange: string[] = [];
  for (const [key, tensor] of tensors) {
    const other = OTHER_KINDS.find(([pattern]) => pattern.test(key));
    if (other) throw new UserError(`${name} is not a plain LoRA but a ${other[1]}: it holds ${key}.`);
    const parsed = roleOf(key);
    if (!parsed) strange.push(key);
    else {
      const layer = found.get(parsed.key) ?? {};
      if (layer[parsed.role]) throw new UserError(`${name} holds ${parsed.key} in two namings.`);
      found.set(parsed.key, { ...layer, [parsed.role]: tensor });
    }
  }
  if (found.size === 0) {
    throw new UserError(`${name} is no LoRA: none of its ${tensors.size} tensors is one.`, {
      hint: "A LoRA holds pairs …lora_A.weight and …lora_B.weight, …lora.down.weight and …lora.up.weight, or …lora_down.weight and …lora_up.weight.",
    });
  }
  const alphas = alphasOf(config, metadata, name);
  const layers: AdapterLayer[] = [];
  const halves: string[] = [];
  for (const [key, { down, up, alpha }] of found) {
    if (alpha && alpha.data.length !== 1) throw new UserError(`${name}: ${key}.alpha is not a single number.`);
    if (!down || !up) halves.push(`${key} (no ${down ? "up" : up ? "down" : "matrices"})`);
    else {
      const place = placeOf(key);
      layers.push({ key, ...place, down, up, alpha: alpha ?? alphas(place.part, place.path, down.shape[0]!) });
    }
  }
  const problems = [
    ...(strange.length > 0 ? [`${strange.length} names are no part of a LoRA:\n${indented(strange)}`] : []),
    ...(halves.length > 0 ? [`${halves.length} layers are not complete:\n${indented(halves)}`] : []),
  ];
  if (problems.length > 0) throw new UserError(`${name} cannot be taken.\n${problems.join("\n")}`);
  return { name, layers };
}

/** Names as lines of a message. */
export function indented(names: readonly string[]): string {
  return names.map((name) => `  ${name}`).join("\n");
}

/** What a tensor is to its layer. */
function roleOf(key: string): { readonly key: string; readonly role: Role } | undefined {
  const alpha = /^(.+?)(?:\.lora|_lora)?\.alpha$/.exec(key);
  if (alpha) return { key: alpha[1]!, role: "alpha" };
  // PEFT may put the adapter's name between, as in lora_A.default.weight.
  const peft = /^(.+)\.lora_([AB])(?:\.[\w-]+)?\.weight$/.exec(key);
  if (peft) return { key: peft[1]!, role: peft[2] === "A" ? "down" : "up" };
  const other = /^(.+?)(?:\.lora\.|\.lora_linear_layer\.|\.lora_|_lora\.)(down|up)\.weight$/.exec(key);
  return other ? { key: other[1]!, role: other[2] as "down" | "up" } : undefined;
}

/** The component and the path in it that a layer's name means. */
function placeOf(key: string): Pick<AdapterLayer, "part" | "path" | "joined"> {
  for (const [prefix, part] of JOINED_PARTS) {
    if (key.startsWith(prefix) && !key.includes(".")) return { part, path: key.slice(prefix.length), joined: true };
  }
  const own = key.replace(/^base_model\.model\./, "");
  const [, part, rest] = DOTTED_PARTS.exec(own) ?? [];
  // Attention processors of old diffusers held the updates of the layers they used.
  const path = (rest ?? own).replace(".processor.", ".").replace(/\.to_out$/, ".to_out.0");
  return { part, path, joined: false };
}

/** Alpha by PEFT's `adapter_config.json`, or by what diffusers keeps of it for each component, `lora_adapter_metadata`. */
function alphasOf(
  config: PeftConfig | undefined,
  metadata: Readonly<Record<string, string>>,
  name: string,
): (part: string | undefined, path: string, rank: number) => number | undefined {
  if (config) {
    const alphaOf = peftAlphas(config, `The adapter_config.json of ${name}`);
    return (_, path, rank) => alphaOf(path, rank);
  }
  const text = metadata.lora_adapter_metadata;
  if (text === undefined) return () => undefined;
  const what = `The lora_adapter_metadata of ${name}`;
  let notes: unknown;
  try {
    notes = JSON.parse(text);
  } catch {
    throw new UserError(`${what} is not JSON.`, { field: "lora" });
  }
  if (typeof notes !== "object" || notes === null || Array.isArray(notes)) {
    throw new UserError(`${what} is no JSON object.`, { field: "lora" });
  }
  const byPart = new Map<string | undefined, Record<string, unknown>>();
  for (const [field, value] of Object.entries(notes)) {
    const [, part, own = field] = DOTTED_PARTS.exec(field) ?? [];
    byPart.set(part, { ...byPart.get(part), [own]: value });
  }
  const alphas = new Map([...byPart].map(([part, of]) => [part, peftAlphas(of, part ? `${what} (${part})` : what)]));
  return (part, path, rank) => alphas.get(part)?.(path, rank);
}
