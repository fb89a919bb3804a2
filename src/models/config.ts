import { z } from "zod";
import { UserError } from "../core/errors.ts";

/** A network's `config.json`: every field by name, as diffusers writes it. */
export type Config = Readonly<Record<string, unknown>>;

/** Fields that describe the file, not the network: kept as they are. */
const isMetadata = (name: string) => name.startsWith("_");

/**
 * Reads a network's configuration: fields that are missing get diffusers' defaults, values that cannot be taken and
 * fields that are not known are refused by name.
 *
 * @param className the network's class, for messages
 * @param fields what is accepted for each field, with its default
 * @param given the parsed `config.json`
 * @param options.formerly another class that such networks were saved as
 * @throws UserError that lists everything that is wrong
 */
export function readConfig<Fields extends z.ZodRawShape>(
  className: string,
  fields: Fields,
  given: Config,
  { formerly }: { formerly?: string } = {},
): z.output<z.ZodObject<Fields>> {
  const name = given._class_name;
  if (name !== undefined && name !== className && name !== formerly) {
    throw new UserError(`This is the configuration of a ${String(given._class_name)}, not of a ${className}.`, {
      field: "_class_name",
    });
  }
  const own = Object.fromEntries(Object.entries(given).filter(([name]) => !isMetadata(name)));
  const result = z.strictObject(fields).safeParse(own, { reportInput: true });
  if (result.success) return result.data as z.output<z.ZodObject<Fields>>;
  const problems = result.error.issues.map((issue) => describe(issue, own));
  const [first] = result.error.issues;
  throw new UserError(
    `The configuration of this ${className} cannot be taken:\n${problems.map((text) => `  ${text}`).join("\n")}`,
    { field: first && String(first.path[0] ?? "") },
  );
}

function describe(issue: z.core.$ZodIssue, given: Config): string {
  if (issue.code === "unrecognized_keys") {
    return `${issue.keys.map((key) => `"${key}"`).join(", ")}: no such field is known`;
  }
  const value = issue.path.reduce<unknown>(
    (inside, key) => (inside as Record<PropertyKey, unknown> | undefined)?.[key],
    given,
  );
  return `"${issue.path.join(".")}" is ${JSON.stringify(value) ?? "missing"}; ${issue.message}`;
}

/** The configuration as it is saved: `_class_name` first, then every field. */
export function savedConfig(className: string, config: object): Config {
  return { _class_name: className, ...config };
}

/** A text encoder's configuration as transformers saves it: its class stands in a list. */
export function savedTextConfig(className: string, config: object): Config {
  return { ...config, architectures: [className] };
}

/**
 * Throws a UserError unless groups of channels can be normalized at every level of a network that halves.
 *
 * @param config where every level's channels are those of a normalization
 */
export function checkGroups({
  block_out_channels,
  norm_num_groups,
}: {
  readonly block_out_channels: readonly number[];
  readonly norm_num_groups: number;
}): void {
  const odd = block_out_channels.filter((channels) => channels % norm_num_groups !== 0);
  if (odd.length === 0) return;
  throw new UserError(
    `block_out_channels must be multiples of norm_num_groups (${norm_num_groups}); ${odd.join(", ")} are not.`,
    { hint: "Choose a norm_num_groups that divides them all, for example 8.", field: "norm_num_groups" },
  );
}

// ---- kinds of fields ---------------------------------------------------------------------------------------------------

// Limits keep damaged files from asking for networks that fill the memory before any weight is looked at.
const LARGEST = 2 ** 24;
const MOST_LAYERS = 512;
const LONGEST_LIST = 64;

const positive = `a whole number from 1 to ${LARGEST} is needed`;

/** A width, a size, a number of channels or of heads: a whole number from 1. */
export const count = () => z.number(positive).int(positive).min(1, positive).max(LARGEST, positive);

/** How many layers there are of a kind. */
export function layerCount({ from = 1 }: { from?: 0 | 1 } = {}) {
  const wanted = `a whole number from ${from} to ${MOST_LAYERS} is needed`;
  return z.number(wanted).int(wanted).min(from, wanted).max(MOST_LAYERS, wanted);
}

/** Any number. */
export const number = () => z.number("a number is needed");

/** true or false. */
export const flag = (standard: boolean) => z.boolean("true or false is needed").default(standard);

/** One of some words. */
export function oneOf<const Names extends readonly [string, ...string[]]>(names: Names) {
  return z.enum(names, `accepted: ${names.map((name) => `"${name}"`).join(", ")}`);
}

/** A list that is not empty. */
export function listOf<Item extends z.ZodType>(item: Item) {
  return z.array(item, "a list is needed").min(1, "at least one is needed").max(LONGEST_LIST, "too many");
}

/** A list of widths. */
export const counts = () => listOf(count());

/** A number for every level, or one for all. */
export const countOrCounts = () => z.union([count(), counts()], "a whole number or a list of whole numbers is needed");

/** The same for layers. */
export const layersOrList = (limits: { from?: 0 | 1 } = {}) =>
  z.union([layerCount(limits), listOf(layerCount(limits))], "a number of layers or a list of them is needed");

/** A size in pixels or latent pixels: one number, or height and width. Only a hint; the graph's size is that of its input. */
export const sampleSize = () =>
  z.union([count(), z.array(count()).length(2)], "a size or [height, width] is needed").nullable();

/** A field of which only some values are built: others are refused with what is missing. */
export function only<const Values extends readonly unknown[]>(values: Values, standard: Values[number] = values[0]) {
  const accepted = values.map((value) => JSON.stringify(value)).join(" or ");
  return z
    .custom<Values[number]>(
      (value) => values.some((known) => known === value),
      `only ${accepted} is supported; other values need parts of the network that are not built`,
    )
    .default(standard as never);
}

/** The same for a field of older files: without a default, and not written where it was not given. */
export function formerField<const Values extends readonly unknown[]>(values: Values) {
  return only(values).unwrap().optional();
}

/** A field that changes nothing in what is computed here: precision hints, ids for a tokenizer and the like. */
export const noEffect = (standard: unknown = null) => z.unknown().default(standard);
