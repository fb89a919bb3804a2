import { type Command, InvalidArgumentError, Option } from "commander";
import type { z } from "zod";
import { UserError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";

// Flags out of a schema: what a recipe file or a request may hold, a flag may say.

/** What a field of a schema takes, as far as a flag must know. */
type Kind = "text" | "number" | "flag" | "list";

export interface SchemaField {
  readonly key: string;
  /** In kebab-case. */
  readonly flag: string;
  readonly kind: Kind;
  readonly description: string;
  readonly standard: unknown;
  /** Of a list: whether one item may stand alone. */
  readonly single?: boolean;
  /** The words or numbers that are accepted, where these are listed. */
  readonly choices: readonly (string | number)[] | undefined;
}

/**
 * Adds a flag for each field of a schema, with a line of help from its description, its choices and its default.
 * A flag that is a yes or no can be negated with `--no-…`, to undo what a recipe file says.
 */
export function addSchemaOptions(command: Command, schema: z.ZodObject, skip: readonly string[] = []): Command {
  for (const field of fieldsOf(schema)) {
    if (skip.includes(field.key)) continue;
    const { flag, kind, description, standard, choices, single } = field;
    if (kind === "flag") {
      const yes = new Option(`--${flag}`, description);
      const no = new Option(`--no-${flag}`, standard === true ? `turn off: ${description}` : description);
      // The one that changes the default is listed.
      command.addOption(standard === true ? yes.hideHelp() : yes);
      command.addOption(standard === true ? no : no.hideHelp());
      continue;
    }
    const placeholder = { text: "<text>", number: "<number>", list: "<list>" }[kind];
    const notes = [
      ...(choices ? [`one of ${choices.join(", ")}`] : []),
      ...(standard === undefined || (Array.isArray(standard) && standard.length === 0) ? [] : [`default: ${standard}`]),
    ];
    const option = new Option(`--${flag} ${placeholder}`, withNotes(description, notes));
    if (kind === "number") option.argParser(number);
    if (kind === "list") option.argParser((text) => list(text, single));
    command.addOption(option);
  }
  return command;
}

/** Notes in parentheses, together with those the description ends with. */
function withNotes(description: string, notes: readonly string[]): string {
  if (notes.length === 0) return description;
  const joined = notes.join("; ");
  return description.endsWith(")") ? `${description.slice(0, -1)}; ${joined})` : `${description} (${joined})`;
}

/** What the command line said about the fields of a schema, by their keys there. Fields it did not name are left out. */
export function givenOptions(command: Command, schema: z.ZodObject): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  const options = command.opts();
  for (const { key, flag } of fieldsOf(schema)) {
    const attribute = new Option(`--${flag}`).attributeName();
    if (command.getOptionValueSource(attribute) === "cli") given[key] = options[attribute];
  }
  return given;
}

/** A field by its name in the schema or on the command line. Throws a UserError that names the nearest there is. */
export function schemaField(schema: z.ZodObject, name: string): SchemaField {
  const fields = fieldsOf(schema);
  const found = fields.find(({ key, flag }) => key === name || flag === name);
  if (found) return found;
  const meant = nearest(
    name,
    fields.flatMap(({ key, flag }) => [key, flag]),
  );
  throw new UserError(`There is no field ${name}.`, {
    hint: meant ? `Did you mean ${meant}?` : `There are ${fields.map(({ key }) => key).join(", ")}.`,
    field: name,
  });
}

/** The value of a field of this kind as it is written on the command line. What cannot be read is left for the schema to refuse. */
export function readOption({ kind }: Pick<SchemaField, "kind">, text: string): unknown {
  if (kind === "flag") return /^(?:true|yes|on)$/i.test(text) || (/^(?:false|no|off)$/i.test(text) ? false : text);
  if (kind === "list") return list(text);
  return kind === "number" && text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
}

/** The flag of a field, without the dashes before it. */
export function flagOf(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** What only a program can give, as pixels and latents, has no flag. */
const isCustom = (type: z.ZodType) => type.def.type === "custom";

function fieldsOf(schema: z.ZodObject): SchemaField[] {
  return Object.entries(schema.shape).flatMap(([key, type]) => {
    const { inner, standard } = unwrapped(type as z.ZodType);
    if (isCustom(inner)) return [];
    return {
      key,
      flag: flagOf(key),
      ...kindOf(inner),
      description: (type as z.ZodType).description ?? "",
      standard,
    };
  });
}

function unwrapped(type: z.ZodType): { inner: z.ZodType; standard: unknown } {
  let inner = type;
  let standard: unknown;
  for (;;) {
    const def = inner.def as { type: string; innerType?: z.ZodType; defaultValue?: unknown };
    if (def.type !== "default" && def.type !== "optional") return { inner, standard };
    if (def.type === "default") standard = def.defaultValue;
    inner = def.innerType!;
  }
}

function kindOf(type: z.ZodType): Pick<SchemaField, "kind" | "choices" | "single"> {
  const def = type.def as { type: string; entries?: object; options?: z.ZodType[]; values?: (string | number)[] };
  switch (def.type) {
    case "string":
      return { kind: "text", choices: undefined };
    case "enum":
      return { kind: "text", choices: Object.values(def.entries!) };
    case "number":
      return { kind: "number", choices: undefined };
    case "boolean":
      return { kind: "flag", choices: undefined };
    case "literal":
      return { kind: typeof def.values![0] === "number" ? "number" : "text", choices: def.values };
    case "array":
    case "tuple":
      return { kind: "list", choices: undefined };
    case "union": {
      const kinds = def.options!.filter((option) => !isCustom(option)).map(kindOf);
      const choices = kinds.every((kind) => kind.choices) ? kinds.flatMap((kind) => kind.choices!) : undefined;
      const lists = kinds.some((option) => option.kind === "list");
      return { kind: lists ? "list" : kinds[0]!.kind, choices, single: lists };
    }
    default:
      throw new Error(`allegory bug: a field of type ${def.type} has no flag`);
  }
}

/** Of an option that may be given several times, all that it was given. */
export function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}

function number(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (Number.isNaN(value)) throw new InvalidArgumentError("A number is needed.");
  return value;
}

function list(text: string, single = false): unknown {
  const items = text === "" ? [] : text.split(",").map(listItem);
  return single && items.length === 1 ? items[0] : items;
}

/** Items of lists are numbers where they are written like one. */
function listItem(text: string): number | string {
  const item = text.trim();
  return String(Number(item)) === item ? Number(item) : item;
}
