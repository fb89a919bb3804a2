import { expect, test } from "vitest";
import { formatProfile, summarizeProfile } from "./profile.ts";

const node = (name: string, op: string, dur: number, shape: number[]) => ({
  cat: "Node",
  name: `${name}_kernel_time`,
  dur,
  args: {
    op_name: op,
    provider: "CPUExecutionProvider",
    input_type_shape: [{ float: shape }],
    output_type_shape: [{ float: shape }],
  },
});

const events = [
  { cat: "Session", name: "model_loading_array", dur: 2000 },
  { cat: "Session", name: "session_initialization", dur: 8000 },
  node("conv0", "Conv", 3000, [1, 8]),
  node("conv1", "Conv", 1000, [1, 4]),
  node("add0", "Add", 1000, [1, 8]),
  { cat: "Session", name: "SequentialExecutor::Execute", dur: 5500 },
  { cat: "Session", name: "model_run", dur: 6000 },
  { cat: "Node", name: "conv0_fence_before", dur: 7 },
  node("conv0", "Conv", 2000, [1, 8]),
  node("conv1", "Conv", 2000, [1, 4]),
  node("add0", "Add", 1000, [1, 8]),
  { cat: "Session", name: "model_run", dur: 7000 },
];

test("a profile sums time by operator, by shapes and by node, slowest first", () => {
  const profile = summarizeProfile(events);
  expect(profile).toMatchObject({ runs: 2, runMs: 13, nodeMs: 10, loadMs: 10 });
  expect(profile.operators).toEqual([
    { key: "Conv", count: 4, ms: 8, share: 0.8 },
    { key: "Add", count: 2, ms: 2, share: 0.2 },
  ]);
  expect(profile.shapes.map((row) => [row.key, row.ms])).toEqual([
    ["Conv float[1,8] → float[1,8]", 5],
    ["Conv float[1,4] → float[1,4]", 3],
    ["Add float[1,8] → float[1,8]", 2],
  ]);
  expect(profile.nodes.map((row) => [row.key, row.op, row.provider, row.count, row.ms])).toEqual([
    ["conv0", "Conv", "CPU", 2, 5],
    ["conv1", "Conv", "CPU", 2, 3],
    ["add0", "Add", "CPU", 2, 2],
  ]);
});

test("a profile prints milliseconds a run", () => {
  const text = formatProfile(summarizeProfile(events), { top: 1 });
  expect(text.split("\n").map((line) => line.trim())).toEqual([
    "2 runs, 6.50 ms each, 5.00 ms of it in nodes; loaded in 10 ms",
    "by operator, per run:",
    "4.00 ms  80.0 %     2 × Conv",
    "by operator and shapes:",
    "2.50 ms  50.0 %     1 × Conv float[1,8] → float[1,8]",
    "by node:",
    "2.50 ms  50.0 %     1 × Conv conv0 (CPU) float[1,8] → float[1,8]",
  ]);
});
