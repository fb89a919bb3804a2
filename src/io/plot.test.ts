import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { linePlot, savePlot } from "./plot.ts";

const steps = Float64Array.from({ length: 20_000 }, (_, i) => i + 1);
const losses = steps.map((step) => 1 / Math.sqrt(step) + 0.01 * Math.sin(step * 7.3) ** 2);

const labels = (svg: string) => [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map((match) => match[1]);
const paths = (svg: string) => [...svg.matchAll(/<path d="([^"]*)"[^>]*stroke-linejoin/g)].map((match) => match[1]!);

describe("a line plot", () => {
  it("places points by its axes", () => {
    const svg = linePlot([{ name: "a", x: [0, 5, 10], y: [0, 1, 2] }], { width: 400, height: 300 });
    const [path] = paths(svg);
    const points = [...path!.matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map((match) => match.slice(1).map(Number));
    expect(points.length).toBe(3);
    expect(points[1]![0]! * 2).toBeCloseTo(points[0]![0]! + points[2]![0]!, 0);
    expect(points[1]![1]! * 2).toBeCloseTo(points[0]![1]! + points[2]![1]!, 0);
    expect(points[0]![1]).toBeGreaterThan(points[2]![1]!);
    expect(labels(svg)).toEqual(expect.arrayContaining(["0", "5", "10", "0.5", "1.5"]));
  });

  it("labels a log axis with powers of ten and leaves out what has no logarithm", () => {
    const svg = linePlot([{ name: "a", x: [1, 2, 3, 4], y: [1e-4, 0, 0.1, 1] }], { yScale: "log" });
    expect(labels(svg)).toEqual(expect.arrayContaining(["0.0001", "0.001", "0.01", "0.1", "1"]));
    expect(paths(svg)[0]!.match(/M/g)!.length).toBe(2);
  });

  it("stays small for many points and still shows a single spike", () => {
    const spiked = losses.slice();
    spiked[12_345] = 50;
    const svg = linePlot([{ name: "loss", x: steps, y: spiked, smooth: 200 }], { title: "Loss" });
    expect(svg.length).toBeLessThan(120_000);
    const top = (path: string) =>
      Math.min(...[...path.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map((match) => Number(match[1])));
    const [raw, smooth] = paths(svg);
    expect(top(raw!)).toBeLessThan(60);
    expect(top(smooth!)).toBeGreaterThan(200);
  });

  it("breaks the line at values that are not finite", () => {
    const svg = linePlot([{ name: "a", x: [1, 2, 3, 4, 5], y: [1, 2, Number.NaN, 4, Number.POSITIVE_INFINITY] }]);
    expect(paths(svg)[0]!.match(/M/g)!.length).toBe(2);
    expect(svg).not.toMatch(/NaN|Infinity/);
  });

  it("draws a constant and a single point, and refuses none", () => {
    expect(linePlot([{ name: "a", x: [1], y: [3] }])).not.toMatch(/NaN|Infinity/);
    expect(linePlot([{ name: "a", x: [1, 2], y: [0, 0] }])).not.toMatch(/NaN|Infinity/);
    expect(() => linePlot([{ name: "a", x: [], y: [] }])).toThrow(/no point to plot/);
    expect(() => linePlot([{ name: "a", x: [1], y: [] }])).toThrow(/1 x and 0 y values/);
  });

  it("is written as SVG or PNG, names escaped", async () => {
    const folder = await mkdtemp(join(tmpdir(), "allegory-plot-"));
    const series = [
      { name: "loss & <more>", x: steps, y: losses, smooth: 100 },
      { name: "validation", x: [1, 10_000, 20_000], y: [1, 0.1, 0.05] },
    ];
    const options = { title: "Training", xLabel: "step", yLabel: "loss", yScale: "log" } as const;
    await savePlot(join(folder, "loss.svg"), series, options);
    expect(await readFile(join(folder, "loss.svg"), "utf8")).toContain("loss &amp; &lt;more&gt;");
    await savePlot(join(folder, "loss.png"), series, options);
    const { data, info } = await sharp(join(folder, "loss.png"))
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    let blue = 0;
    for (let i = 0; i < data.length; i += 3) if (data[i]! < 40 && data[i + 2]! > 150) blue++;
    expect(info.width).toBe(1440);
    expect(blue).toBeGreaterThan(500);
    await expect(savePlot(join(folder, "loss.pdf"), series)).rejects.toThrow(/\.svg and \.png/);
    await rm(folder, { recursive: true });
  });
});
