/** A part of a page that a benchmark writes, between two comments that name them both. */
export interface MarkedPart {
  /** As it stands in the comments. */
  readonly name: string;
  /** The script that writes it. */
  readonly writer: string;
}

/** A page with what stands between the marks replaced. Throws when it has no such marks. */
export function withMarkedPart(page: string, { name, writer }: MarkedPart, text: string): string {
  const [first, last] = [`<!-- ${name}: written by ${writer} -->`, `<!-- ${name} ends -->`];
  const [start, end] = [page.indexOf(first), page.indexOf(last)];
  if (start < 0 || end < start) throw new Error(`the page needs the lines ${first} and ${last}`);
  return `${page.slice(0, start + first.length)}\n\n${text}\n\n${page.slice(end)}`;
}
