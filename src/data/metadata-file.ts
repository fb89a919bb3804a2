import { CsvError, parse } from "csv-parse/sync";
import { messageOf } from "../core/errors.ts";
import { CAPTION_FIELDS, captionsOfFields } from "./caption-text.ts";

/** What one line of a metadata file says of one picture. */
export interface MetadataRow {
  /** The line it stands on (in a CSV file: ends on), from 1. */
  readonly line: number;
  /** As given: relative to the folder of the metadata file. */
  readonly fileName: string;
  readonly captions: readonly string[];
}

/** What a metadata file says, and what is wrong with it, as "line 3: …". */
export interface Metadata {
  readonly rows: readonly MetadataRow[];
  readonly problems: readonly string[];
}

/** The rows of a `metadata.jsonl`: one JSON object a line; empty lines are passed over. */
export function metadataJsonl(text: string): Metadata {
  const lines = text.split(/\r\n|\n/).map((content, i) => ({ line: i + 1, content }));
  const records = lines
    .filter(({ content }) => content.trim() !== "")
    .map(({ line, content }) => ({ line, fields: () => objectOf(content) }));
  return metadataOf(records);
}

/** The rows of a `metadata.csv`: comma-separated, the first line names the columns. */
export function metadataCsv(text: string): Metadata {
  let parsed: { readonly record: string[]; readonly info: { readonly lines: number } }[];
  try {
    // With `info` each record comes with the line it ends on, which the types do not say.
    parsed = parse(text, { info: true, skip_empty_lines: true }) as unknown as typeof parsed;
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    return { rows: [], problems: [error.message.replace(/^(.*) (?:on|at) line (\d+)/, "line $2: $1")] };
  }
  const [head, ...rest] = parsed;
  const columns = head?.record ?? [];
  if (!columns.includes("file_name")) {
    return { rows: [], problems: [`line 1: no column file_name, only ${listed(columns)}`] };
  }
  return metadataOf(
    rest.map(({ record, info }) => ({
      line: info.lines,
      fields: () => Object.fromEntries(columns.map((column, i) => [column, record[i]])),
    })),
  );
}

type Fields = Readonly<Record<string, unknown>>;

function metadataOf(records: readonly { readonly line: number; readonly fields: () => Fields }[]): Metadata {
  const rows: MetadataRow[] = [];
  const problems: string[] = [];
  const seen = new Set<string>();
  for (const { line, fields: read } of records) {
    try {
      const fields = read();
      const { file_name: fileName } = fields;
      Object.keys(fields).forEach((field) => {
        seen.add(field);
      });
      if (typeof fileName !== "string" || fileName === "") throw new Error("no file_name");
      rows.push({ line, fileName, captions: captionsOfFields(fields) });
    } catch (error) {
      problems.push(`line ${line}: ${messageOf(error)}`);
    }
  }
  if (problems.length === 0 && !CAPTION_FIELDS.some((field) => seen.has(field))) {
    problems.push(`no captions: none of ${listed(CAPTION_FIELDS)} is among its fields, ${listed([...seen])}`);
  }
  return { rows, problems };
}

function objectOf(text: string): Fields {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("not a JSON object");
  return value as Fields;
}

function listed(names: readonly string[]): string {
  return names.length === 0 ? "(nothing)" : names.join(", ");
}
