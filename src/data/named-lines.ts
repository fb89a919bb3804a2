/** How many files, pictures or lines one message names. */
const NAMED = 20;

/** The first 20 of some lines for a message, indented, and how many more there are. */
export function namedLines(lines: readonly string[]): string {
  const more = lines.length - NAMED;
  return [...lines.slice(0, NAMED).map((line) => `  ${line}`), ...(more > 0 ? [`  and ${more} more`] : [])].join("\n");
}
