import { UserError } from "../core/errors.ts";
import { textToImageRequest } from "../pipelines/index.ts";
import { readOption, schemaField } from "./schema-options.ts";

/** A field of a request and the values it takes, one after the other. */
export interface RequestAxis {
  readonly field: string;
  readonly values: readonly { readonly label: string; readonly value: unknown }[];
}

/** One place of a plot: a request, and which value of each axis it has. */
export interface PlotPlace {
  readonly column: number;
  readonly row: number;
  readonly request: Readonly<Record<string, unknown>>;
}

/** Letters of a heading at most. */
const LABEL = 48;

/**
 * Reads `steps=10,20,30`: a field of a text-to-image request, as it is called there or on the command line, and its values.
 * Values that hold commas are set apart by semicolons, `prompt=a cat, sitting; a dog`; so are lists, `guidanceInterval=0,20;1,5`.
 *
 * @throws UserError for a field that there is not, and a text of another form
 */
export function readAxis(text: string, option: "x" | "y"): RequestAxis {
  const [, name, rest] = /^\s*(?:--)?([\w-]+)\s*=(.*)$/s.exec(text) ?? [];
  if (name === undefined || rest === undefined) {
    throw new UserError(`--${option} is ${JSON.stringify(text)}; a field and its values are needed.`, {
      hint: `For example --${option} steps=10,20,30.`,
      field: option,
    });
  }
  const field = schemaField(textToImageRequest, name);
  // Where a single text may stand for a list, as with prompts, each value is a single one.
  const kind = field.single ? "text" : field.kind;
  const apart = kind === "list" || rest.includes(";") ? ";" : ",";
  const texts = rest.split(apart).map((value) => value.trim());
  return {
    field: field.key,
    values: texts.map((value) => ({ label: label(field.key, value), value: readOption({ kind }, value) })),
  };
}

function label(field: string, value: string): string {
  const text = `${field} ${value === "" ? "(empty)" : value}`;
  return text.length > LABEL ? `${text.slice(0, LABEL - 1)}…` : text;
}

/** The requests of a plot, row by row. Throws a UserError for two axes of one field. */
export function plotPlaces(
  request: Readonly<Record<string, unknown>>,
  { x, y }: { readonly x?: RequestAxis; readonly y?: RequestAxis },
): PlotPlace[] {
  if (x && x.field === y?.field) {
    throw new UserError(`Both axes are ${x.field}.`, { hint: "Take another field for one of them.", field: "y" });
  }
  const none = [undefined];
  return (y?.values ?? none).flatMap((yValue, row) =>
    (x?.values ?? none).map((xValue, column) => ({
      ...{ column, row },
      request: {
        ...without(request, [x, y].some((axis) => axis?.field === "seed") ? "seeds" : undefined),
        ...(x && { [x.field]: xValue!.value }),
        ...(y && { [y.field]: yValue!.value }),
      },
    })),
  );
}

/** A list of seeds would go before the seed of an axis. */
function without(request: Readonly<Record<string, unknown>>, name: string | undefined) {
  return Object.fromEntries(Object.entries(request).filter(([key]) => key !== name));
}
