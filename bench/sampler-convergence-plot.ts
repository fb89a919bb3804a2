/**
 * Measures every deterministic solver against the exact denoiser of a Gaussian mixture, draws the errors of some into
 * docs/images/sampler-convergence.svg and writes the table of orders into docs/choose-a-sampler.md:
 * `npx tsx bench/sampler-convergence-plot.ts`
 */
import { mkdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { type Series, savePlot, writeFileAtomically } from "../src/io/index.ts";
import { measureOrder, SOLVERS } from "../test/convergence.ts";
import { withMarkedPart } from "./marked-part.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const PAGE = `${root}docs/choose-a-sampler.md`;

/** What the plot shows, and network calls a step. */
const SHOWN: Readonly<Record<string, number>> = {
  DDIM: 1,
  Heun: 2,
  "DPM-Solver++ 2M": 1,
  "DPM-Solver++ 3M, as published": 1,
  "DPM-Solver++ 3M": 1,
  "UniPC 2, bh2": 1,
  "LMS 4": 1,
};
/** Whole groups of two and of three. */
const STEPS = [6, 12, 18, 24, 36, 48, 72, 96, 144];

const series: Series[] = [];
for (const [name, calls] of Object.entries(SHOWN)) {
  const { points } = await measureOrder(SOLVERS.find((solver) => solver.name === name)!, STEPS);
  series.push({ name, x: points.map(({ steps }) => steps * calls), y: points.map(({ error }) => error) });
}
await mkdir(`${root}docs/images`, { recursive: true });
await savePlot(`${root}docs/images/sampler-convergence.svg`, series, {
  title: "Error at the end of the path, exact denoiser of a Gaussian mixture",
  xLabel: "network calls",
  yLabel: "root mean square error",
  xScale: "log",
  yScale: "log",
  legend: "bottom left",
  height: 540,
});

const rows: string[] = [];
for (const solver of SOLVERS) {
  const { order, points } = await measureOrder(solver);
  const counts = points.map(({ steps }) => steps).join(", ");
  rows.push(`| ${solver.name} | ${solver.order} | ${order.toFixed(2)} | ${counts} |`);
}
const page = await readFile(PAGE, "utf8");
const table = `| solver | order | measured | at steps |\n|---|--:|--:|---|\n${rows.join("\n")}`;
const part = { name: "sampler-orders", writer: "bench/sampler-convergence-plot.ts" };
await writeFileAtomically(PAGE, withMarkedPart(page, part, table));
process.stdout.write(`${table}\n`);
