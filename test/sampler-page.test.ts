import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { belongs, type FrechetRow, frechetTable, withTable } from "../bench/frechet-table.ts";
import { extrapolated } from "../examples/own-sampler.ts";
import { runs } from "../examples/runs-without-a-name.ts";
import { UserError } from "../src/core/errors.ts";
import { float32 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { GRIDS, noiseFrom, SAMPLERS, type SamplerName, samplerFromConfig } from "../src/diffusion/index.ts";
import { chooseSampler } from "../src/pipelines/index.ts";
import { measureOrder, SOLVERS } from "./convergence.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const read = (path: string) => readFile(`${root}${path}`, "utf8");
const page = await read("docs/choose-a-sampler.md");

test("the page's code is that of the examples", async () => {
  const blocks = [...page.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1]);
  expect(blocks).toEqual([await read("examples/runs-without-a-name.ts"), await read("examples/own-sampler.ts")]);
});

test("the page's own sampler is of the order that the page says", async () => {
  const { order } = await measureOrder({ name: "own", order: 2, path: "preserving", run: extrapolated });
  expect(Math.abs(order - 2)).toBeLessThan(0.25);
});

test.each(Object.entries(runs))("the page's run without a name draws: %s", async (_, plan) => {
  const noise = noiseFrom(seeded(1));
  const unit = noise([1, 1, 4, 4]);
  let x = float32(
    unit.shape,
    unit.data.map((value) => value * plan.initNoiseSigma),
  );
  for await (const state of plan.sample(async (seen) => seen, x, { noise })) x = state.x;
  expect(x.data.every(Number.isFinite)).toBe(true);
});

test("the classes and options that the page names are those that are read", () => {
  const rows = [...page.matchAll(/^\| .* \| `(\w+Scheduler)` \| (.*) \|$/gm)];
  expect(rows.length).toBeGreaterThan(5);
  for (const [, className, options] of rows) {
    const { ...set } = JSON.parse(`{${[...options!.matchAll(/`(".*?)`/g)].map((match) => match[1]).join(",")}}`);
    expect(() => samplerFromConfig({ _class_name: className, ...set }).plan({ steps: 4 })).not.toThrow();
  }
});

test("the page says which spreads a sampler has", () => {
  const said = new Map<string, readonly string[]>();
  for (const [, samplers, spreads] of page.matchAll(/^\| (`[^|]*`) \| (all|all but `[^|]*`|`[^|]*`) \|$/gm)) {
    const named = [...spreads!.matchAll(/`(.*?)`/g)].map((match) => match[1]!);
    const has = spreads!.startsWith("all") ? GRIDS.filter((name) => !named.includes(name)) : named;
    for (const [, name] of samplers!.matchAll(/`(.*?)`/g)) said.set(name!, has);
  }
  for (const name of Object.keys(SAMPLERS)) {
    if (name === "lcm" || name === "tcd") continue;
    const has = GRIDS.filter((spread) => {
      try {
        return chooseSampler({ _class_name: "DDPMScheduler" }, name as SamplerName, spread).plan({ steps: 8 });
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        return false;
      }
    });
    expect([name, [...(said.get(name) ?? [])].sort()]).toEqual([name, [...has].sort()]);
  }
});

test("the page names every sampler and every spread", () => {
  for (const name of [...Object.keys(SAMPLERS), ...GRIDS]) expect(page).toContain(`\`${name}\``);
});

test("the page's orders are those that are measured today", async () => {
  for (const solver of SOLVERS) {
    const row = page.split("\n").find((line) => line.startsWith(`| ${solver.name} |`));
    const [, , declared, measured] = row?.split("|").map((cell) => cell.trim()) ?? [];
    expect([solver.name, Number(declared)]).toEqual([solver.name, solver.order]);
    expect(Math.abs(Number(measured) - (await measureOrder(solver)).order)).toBeLessThan(0.02);
  }
});

const row = (sampler: string, calls: number, frechet: number, more: Partial<FrechetRow> = {}): FrechetRow => ({
  ...{ model: "m", sampler, calls, steps: calls, used: calls, count: 100, seed: 0, guidance: 1 },
  ...{ frechet, kernel: 0, confident: 1, seconds: calls / 10 },
  ...more,
});

const columns = [5, 20, 1000].map((calls) => ({ calls, count: 100 }));

test("the table of distances marks what is near the reference, best at 20 calls first, with times of an idle machine below", () => {
  const rows = [
    row("ddpm", 20, 9),
    row("ddpm", 1000, 2, { shared: true }),
    row("heun", 20, 2.3, { seconds: 4 }),
    row("dpm++2m", 20, 2.2, { spread: "karras" }),
    row("dpm++2m", 5, 3.456),
  ];
  const reals = [{ real: true, count: 100, frechet: 0.51234 }] as const;
  const lines = frechetTable(rows, reals, columns).split("\n");
  expect(lines.slice(-15)).toEqual([
    "| sampler | 5 calls | 20 calls | 1000 calls |",
    "|---|--:|--:|--:|",
    "| `dpm++2m:karras` |  | **2.20** |  |",
    "| `heun` |  | 2.30 |  |",
    "| `ddpm` |  | 9.00 | **2.00** |",
    "| `dpm++2m` | 3.46 |  |  |",
    "",
    "Milliseconds a picture; – where other work shared the machine:",
    "",
    "| sampler | 5 calls | 20 calls | 1000 calls |",
    "|---|--:|--:|--:|",
    "| `dpm++2m:karras` |  | 20 |  |",
    "| `heun` |  | 40 |  |",
    "| `ddpm` |  | 20 | – |",
    "| `dpm++2m` | 5 |  |  |",
  ]);
  expect(lines.join(" ")).toContain(
    "real training digits have 0.512. Bold: at most 10 % above `ddpm` with 1000 calls, 2.00.",
  );
  expect(frechetTable([], [], columns)).toBe("Nothing was measured yet.");
});

test("a column of fewer pictures has its own yardstick", () => {
  const few = { count: 40 };
  const rows = [
    ...[row("ddpm", 20, 2), row("ddpm", 1000, 2.4), row("heun", 20, 2.5)],
    ...[row("ddpm", 1000, 5, few), row("heun", 1000, 5.6, few), row("euler", 1000, 5.4, few)],
  ];
  const reals = [
    { real: true, count: 100, frechet: 1 },
    { real: true, count: 40, frechet: 3 },
  ] as const;
  const lines = frechetTable(rows, reals, [columns[1]!, { calls: 1000, count: 40 }]).split("\n");
  expect(lines.slice(0, 4).join(" ")).toMatch(
    /of 100 drawn.*have 1.00\..*with 1000 calls, 2.40\..*Of 40 digits.*have 3.00\..*5.00\./,
  );
  expect(lines.slice(-13)).toEqual([
    "| sampler | 20 calls | 1000 calls, 40 digits |",
    "|---|--:|--:|",
    "| `ddpm` | **2.00** | **5.00** |",
    "| `heun` | **2.50** | 5.60 |",
    "| `euler` |  | **5.40** |",
    "",
    "Milliseconds a picture:",
    "",
    "| sampler | 20 calls | 1000 calls, 40 digits |",
    "|---|--:|--:|",
    "| `ddpm` | 20 | 2500 |",
    "| `heun` | 20 | 2500 |",
    "| `euler` |  | 2500 |",
  ]);
});

test("the table goes between its marks and can be written again; a page without them is refused", () => {
  const first = withTable(page, "| one |");
  expect(first).toContain("| one |");
  const second = withTable(first, "| two |");
  expect(second).not.toContain("| one |");
  expect(second).toBe(withTable(page, "| two |"));
  expect(() => withTable("no marks", "")).toThrow(/needs the lines/);
});

test("only places of one network, seed and guidance are compared", () => {
  const place = row("ddpm", 5, 1);
  expect(belongs(place, place)).toBe(true);
  for (const other of [{ model: "n" }, { seed: 1 }, { guidance: 2 }]) {
    expect(belongs(place, { ...place, ...other })).toBe(false);
  }
});
