import sharp from "sharp";
import { UserError } from "../core/errors.ts";
import { writeFileAtomically } from "./atomic-file.ts";
import { escapeXml } from "./image-grid.ts";

/** One line of a plot. Points that are not finite (or not positive on a log scale) break the line. */
export interface Series {
  readonly name: string;
  readonly x: ArrayLike<number>;
  readonly y: ArrayLike<number>;
  /** Also draw the running mean (exponential, of about this many points); the points themselves then stay pale. */
  readonly smooth?: number;
}

export interface PlotOptions {
  readonly title?: string;
  readonly xLabel?: string;
  readonly yLabel?: string;
  readonly xScale?: "linear" | "log";
  readonly yScale?: "linear" | "log";
  readonly width?: number;
  readonly height?: number;
  /** Where the names of the lines stand: where the lines are not. */
  readonly legend?: "top right" | "bottom left";
}

/** Distinguishable with colour-blindness too: the palette of Okabe and Ito (2008). */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/**
 * Draws lines into an SVG document.
 *
 * @throws UserError when no series has a point that can be drawn, or a series' x and y differ in length
 */
export function linePlot(series: readonly Series[], options: PlotOptions = {}): string {
  const { title, xLabel, yLabel, xScale = "linear", yScale = "linear", width = 720, height = 420 } = options;
  const { legend: corner = "top right" } = options;
  for (const { name, x, y } of series) {
    if (x.length !== y.length) throw new UserError(`Series "${name}" has ${x.length} x and ${y.length} y values.`);
  }
  const smoothed = series.map(({ y, smooth }) => (smooth && smooth > 1 ? runningMean(y, smooth) : undefined));
  const xs = axis(
    series.map((s) => s.x),
    xScale,
    Math.max(3, Math.floor(width / 110)),
    0,
  );
  const ys = axis(
    series.map((s) => s.y),
    yScale,
    Math.max(3, Math.floor(height / 60)),
    0.04,
  );
  if (!xs || !ys) throw new UserError("There is no point to plot: every value is missing, infinite or off the scale.");

  const left = 24 + (yLabel ? 18 : 0) + 7 * Math.max(...ys.ticks.map((tick) => tick.label.length));
  const top = title ? 40 : 18;
  const right = width - 20;
  const bottom = height - (xLabel ? 48 : 30);
  const px = (value: number) => left + xs.position(value) * (right - left);
  const py = (value: number) => bottom - ys.position(value) * (bottom - top);

  const parts: string[] = [];
  for (const { value, label } of ys.ticks) {
    const y = round(py(value));
    parts.push(`<line x1="${left}" x2="${right}" y1="${y}" y2="${y}" stroke="#e3e3e3"/>`);
    parts.push(`<text x="${left - 7}" y="${y + 4}" text-anchor="end">${label}</text>`);
  }
  for (const { value, label } of xs.ticks) {
    const x = round(px(value));
    parts.push(`<line x1="${x}" x2="${x}" y1="${bottom}" y2="${bottom + 5}" stroke="#888"/>`);
    parts.push(`<text x="${x}" y="${bottom + 19}" text-anchor="middle">${label}</text>`);
  }
  parts.push(`<path d="M${left} ${top}V${bottom}H${right}" fill="none" stroke="#888"/>`);
  series.forEach(({ x, y }, n) => {
    const colour = COLOURS[n % COLOURS.length]!;
    const line = (values: ArrayLike<number>, style: string) => {
      const d = pathOf(x, values, (a, b) => (xs.has(a) && ys.has(b) ? [px(a), py(b)] : undefined));
      parts.push(
        `<path d="${d}" fill="none" stroke="${colour}" stroke-linejoin="round" stroke-linecap="round" ${style}/>`,
      );
    };
    const mean = smoothed[n];
    line(y, mean ? 'stroke-width="1" stroke-opacity="0.28"' : 'stroke-width="1.8"');
    if (mean) line(mean, 'stroke-width="2"');
  });
  const names = legendBox(series);
  const place = corner === "top right" ? [right - names.width - 6, top + 4] : [left + 6, bottom - names.height - 6];
  parts.push(...legend(series, place as [number, number]));
  if (title)
    parts.push(`<text x="${left}" y="24" font-size="15" font-weight="600" fill="#222">${escapeXml(title)}</text>`);
  if (xLabel) {
    parts.push(`<text x="${(left + right) / 2}" y="${height - 10}" text-anchor="middle">${escapeXml(xLabel)}</text>`);
  }
  if (yLabel) {
    const y = (top + bottom) / 2;
    parts.push(
      `<text x="18" y="${y}" text-anchor="middle" transform="rotate(-90 18 ${y})">${escapeXml(yLabel)}</text>`,
    );
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif" font-size="12" fill="#444">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...parts,
    "</svg>\n",
  ].join("\n");
}

/** Writes a plot; the extension (.svg or .png, the latter with fonts of the system) chooses the format. */
export async function savePlot(path: string, series: readonly Series[], options: PlotOptions = {}): Promise<void> {
  const svg = linePlot(series, options);
  if (/\.svg$/i.test(path)) await writeFileAtomically(path, svg);
  else if (/\.png$/i.test(path))
    await writeFileAtomically(path, await sharp(Buffer.from(svg), { density: 144 }).png().toBuffer());
  else throw new UserError(`Plots cannot be written to ${path}; accepted extensions are .svg and .png.`);
}

/**
 * Exponential running mean with the start corrected as Adam's moments are (Kingma & Ba 2015, section 3): weights
 * (1 - 1/n)^age, normalised. Values that are not finite leave it as it was.
 */
function runningMean(values: ArrayLike<number>, n: number): Float64Array {
  const keep = 1 - 1 / n;
  const result = new Float64Array(values.length);
  let sum = 0;
  let weight = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (Number.isFinite(value)) {
      sum = keep * sum + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
    }
    result[i] = weight > 0 && Number.isFinite(value) ? sum / weight : Number.NaN;
  }
  return result;
}

interface Axis {
  readonly ticks: readonly { readonly value: number; readonly label: string }[];
  /** 0 at the start of the axis, 1 at its end. */
  position(value: number): number;
  has(value: number): boolean;
}

/** An axis over all drawable values, widened by `margin` of its length at both ends. */
function axis(
  lists: readonly ArrayLike<number>[],
  scale: "linear" | "log",
  count: number,
  margin: number,
): Axis | undefined {
  const has = (value: number) => Number.isFinite(value) && (scale === "linear" || value > 0);
  const along = scale === "log" ? Math.log10 : (value: number) => value;
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const list of lists) {
    for (let i = 0; i < list.length; i++) {
      if (!has(list[i]!)) continue;
      low = Math.min(low, along(list[i]!));
      high = Math.max(high, along(list[i]!));
    }
  }
  if (low > high) return undefined;
  if (high - low < 1e-12 * Math.max(1, Math.abs(low))) {
    const room = scale === "log" ? 0.5 : Math.abs(low) * 0.1 || 1;
    low -= room;
    high += room;
  }
  const room = (high - low) * margin;
  low -= room;
  high += room;
  const values = scale === "log" ? logTicks(low, high, count) : linearTicks(low, high, count);
  const step = values.length > 1 ? Math.abs(values[1]! - values[0]!) : 1;
  const ticks = values.map((value) => ({ value, label: scale === "log" ? plain(value) : labelOf(value, step) }));
  return { ticks, position: (value) => (along(value) - low) / (high - low), has };
}

/** About `count` multiples of 1, 2 or 5 times a power of ten. */
function linearTicks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (rough / power > 5 ? 10 : rough / power > 2 ? 5 : rough / power > 1 ? 2 : 1);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
}

/** Powers of ten, with 2 and 5 between them where there are few; plain steps within less than a factor of 3. */
function logTicks(low: number, high: number, count: number): number[] {
  if (high - low < Math.log10(3)) return linearTicks(10 ** low, 10 ** high, count).filter((value) => value > 0);
  const decades = Math.ceil((high - low) / count);
  const factors = high - low < 2.5 ? [1, 2, 5] : [1];
  const ticks: number[] = [];
  for (let power = Math.floor(low / decades) * decades; power <= high; power += decades) {
    for (const factor of factors) ticks.push(Number(`${factor}e${power}`));
  }
  return ticks.filter((value) => Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9);
}

function labelOf(value: number, step: number): string {
  if (value === 0 || Math.abs(value) < step * 1e-6) return "0";
  if (Math.abs(value) >= 1e5 || step < 1e-5) return plain(value);
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

/** As few characters as show three digits: 0.02, 20k, 1.5M, 1e-6. */
function plain(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6 && size < 1e9) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4 && size < 1e6) return `${Number((value / 1e3).toPrecision(3))}k`;
  if (size >= 1e-4 && size < 1e4) return String(Number(value.toPrecision(3)));
  return value.toExponential(2).replace(/\.?0*e\+?/, "e");
}

/**
 * The path through the points. Where many fall on one column of pixels, only the first, lowest, highest and last of
 * them are kept: the picture is the same, the file stays small.
 */
function pathOf(
  x: ArrayLike<number>,
  y: ArrayLike<number>,
  place: (x: number, y: number) => readonly [number, number] | undefined,
): string {
  let path = "";
  let column: (readonly [number, number])[] = [];
  let pen = false;
  const flush = () => {
    const heights = column.map((point) => point[1]);
    const lowest = heights.indexOf(Math.max(...heights));
    const highest = heights.indexOf(Math.min(...heights));
    const kept = new Set([0, Math.min(lowest, highest), Math.max(lowest, highest), column.length - 1]);
    for (const i of kept) {
      const point = column[i];
      if (!point) continue;
      path += `${pen ? "L" : "M"}${round(point[0])} ${round(point[1])}`;
      pen = true;
    }
    column = [];
  };
  for (let i = 0; i < x.length; i++) {
    const point = place(x[i]!, y[i]!);
    if (!point) {
      flush();
      // A point alone between gaps still shows, as a dot of the line's round end.
      pen = false;
      continue;
    }
    if (column.length > 0 && Math.round(column[0]![0]) !== Math.round(point[0])) flush();
    column.push(point);
  }
  flush();
  return path.replace(/(M[^ML]+)(?=M|$)/g, "$1h0");
}

function legend(series: readonly Series[], [x, top]: readonly [number, number]): string[] {
  if (series.length < 2) return [];
  const { width, height } = legendBox(series);
  const box = `<rect x="${x}" y="${top}" width="${width}" height="${height}" rx="4" fill="#fff" fill-opacity="0.85"/>`;
  const rows = series.flatMap(({ name }, n) => {
    const y = top + 14 + n * 18;
    return [
      `<line x1="${x + 8}" x2="${x + 28}" y1="${y}" y2="${y}" stroke="${COLOURS[n % COLOURS.length]}" stroke-width="2.5"/>`,
      `<text x="${x + 35}" y="${y + 4}">${escapeXml(name)}</text>`,
    ];
  });
  return [box, ...rows];
}

function legendBox(series: readonly Series[]): { readonly width: number; readonly height: number } {
  return { width: 44 + 7 * Math.max(...series.map((s) => s.name.length)), height: series.length * 18 + 8 };
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
