/** Numbers as people read them. */

/** `1.2 MB`, in powers of 1000. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${units[unit]}`;
}

/** `1,234,567` */
export function whole(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** `45 s`, `3 min 05 s`, `2 h 07 min` */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const rounded = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${two(rounded % 60)} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

/** A number in `digits` significant digits, without trailing zeros; powers of ten only where they are shorter. */
export function short(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : String(value);
  return String(Number(value.toPrecision(digits)));
}

/** A number between 0 and 1: near 1 with as many digits as show how near. */
export function share(value: number): string {
  const digits = value > 0.99 && value < 1 ? Math.ceil(-Math.log10(1 - value)) + 2 : 3;
  return short(value, digits);
}

/** Rows of cells in aligned columns; cells that are numbers go to the right. */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const columns = Math.max(...rows.map((row) => row.length), 0);
  const text = (cell: string | number | undefined) => (typeof cell === "number" ? whole(cell) : (cell ?? ""));
  const widths = Array.from({ length: columns }, (_, c) => Math.max(...rows.map((row) => text(row[c]).length)));
  return rows
    .map((row) =>
      row
        .map((cell, c) => (typeof cell === "number" ? text(cell).padStart(widths[c]!) : text(cell).padEnd(widths[c]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
