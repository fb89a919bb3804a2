/** The captions of a text file: one a line, empty lines passed over. */
export function captionLines(text: string): string[] {
  return text
    .split(/\r\n|\r|\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "");
}

/** The fields of metadata that hold captions: a string each, or a list of strings. */
export const CAPTION_FIELDS = ["text", "caption", "captions"] as const;

/**
 * The captions among the fields of one picture's metadata; empty ones are none.
 * @throws Error that names a field with something other than text
 */
export function captionsOfFields(fields: Readonly<Record<string, unknown>>): string[] {
  const captions = CAPTION_FIELDS.flatMap((field) => {
    const value = fields[field] ?? [];
    const texts: unknown[] = Array.isArray(value) ? value : [value];
    return texts.map((text) => {
      if (typeof text !== "string") throw new Error(`"${field}" is ${JSON.stringify(text)}, not text`);
      return text.trim();
    });
  });
  return [...new Set(captions)].filter((caption) => caption !== "");
}
