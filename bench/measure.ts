import { readFileSync } from "node:fs";
import type { SessionOptions } from "../src/runtime/index.ts";
import { projectFile } from "./root.ts";

export interface BenchOptions {
  readonly batch: number;
  readonly seconds: number;
  readonly threads: number;
  readonly device: SessionOptions["device"];
  readonly profile?: boolean;
}

/** Runs `step` three times to warm up, then for `seconds` and at least 5 times; seconds of each repeat. */
export async function timed(step: () => Promise<unknown>, seconds: number): Promise<number[]> {
  for (let i = 0; i < 3; i++) await step();
  const times: number[] = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end || times.length < 5) {
    const started = performance.now();
    await step();
    times.push((performance.now() - started) / 1000);
  }
  return times;
}

/** The middle value. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Images a second and this process's peak memory, as the benchmarks print them. */
export function throughput({ batch, threads }: BenchOptions, times: readonly number[], parameters: number) {
  const { version } = JSON.parse(readFileSync(projectFile("node_modules/onnxruntime-node/package.json"), "utf8")) as {
    version: string;
  };
  const round = (value: number) => Math.round(value * 100) / 100;
  return {
    batch,
    onnxruntime: version,
    threads,
    images_per_s: round(batch / median(times)),
    best_images_per_s: round(batch / Math.min(...times)),
    repeats: times.length,
    parameters,
    peak_mb: Math.round(process.resourceUsage().maxRSS / 1024),
  };
}
