/** Reading ONNX Runtime's profile: where the time of a session went. */

/** Time summed over all runs and all nodes that share a key. */
export interface ProfileRow {
  /** The operator's type (`Conv`), or the node's name. */
  readonly key: string;
  /** How many times it ran. */
  readonly count: number;
  /** Milliseconds over all runs. */
  readonly ms: number;
  /** Share of the time spent in nodes, 0 to 1. */
  readonly share: number;
}

/** A node of the graph as it was executed (after fusion). */
export interface ProfileNode extends ProfileRow {
  readonly op: string;
  readonly provider: string;
  /** Shapes as ONNX Runtime reports them, such as `float[64,32,28,28] float[32,32,3,3] → float[64,32,28,28]`. */
  readonly shapes: string;
}

export interface Profile {
  /** Runs of the model. */
  readonly runs: number;
  /** Milliseconds over all runs, from call to return. */
  readonly runMs: number;
  /** Milliseconds of `runMs` spent in nodes; the rest is ONNX Runtime's own bookkeeping. */
  readonly nodeMs: number;
  /** Milliseconds to load and optimize the model. */
  readonly loadMs: number;
  /** By operator type, slowest first. */
  readonly operators: readonly ProfileRow[];
  /** By operator type and shapes, slowest first: which sizes of a convolution cost the most. */
  readonly shapes: readonly ProfileRow[];
  /** By node, slowest first. */
  readonly nodes: readonly ProfileNode[];
}

/** An event of the file, in the trace format of Chromium's about:tracing; `dur` in microseconds. */
interface TraceEvent {
  readonly cat?: string;
  readonly name?: string;
  readonly dur?: number;
  readonly args?: {
    readonly op_name?: string;
    readonly provider?: string;
    readonly input_type_shape?: readonly Readonly<Record<string, readonly number[]>>[];
    readonly output_type_shape?: readonly Readonly<Record<string, readonly number[]>>[];
  };
}

/** Sums the events of a profile (the parsed JSON file that ONNX Runtime wrote). */
export function summarizeProfile(events: readonly unknown[]): Profile {
  let [runs, runMs, nodeMs, loadMs] = [0, 0, 0, 0];
  const nodes = new Map<string, { op: string; provider: string; shapes: string; count: number; ms: number }>();
  for (const event of events as readonly TraceEvent[]) {
    const ms = (event.dur ?? 0) / 1000;
    if (event.cat === "Session") {
      if (event.name === "model_run") {
        runs++;
        runMs += ms;
      } else if (event.name?.startsWith("model_loading") || event.name === "session_initialization") {
        loadMs += ms;
      }
    } else if (event.cat === "Node" && event.name?.endsWith("_kernel_time")) {
      nodeMs += ms;
      const name = event.name.slice(0, -"_kernel_time".length);
      const node = nodes.get(name);
      if (node) {
        node.count++;
        node.ms += ms;
      } else {
        const { op_name: op = "?", provider = "?", input_type_shape = [], output_type_shape = [] } = event.args ?? {};
        const shapes = `${describeShapes(input_type_shape)} → ${describeShapes(output_type_shape)}`;
        nodes.set(name, { op, provider: provider.replace("ExecutionProvider", ""), shapes, count: 1, ms });
      }
    }
  }
  const rows = [...nodes].map(([key, node]) => ({ key, ...node, share: share(node.ms, nodeMs) }));
  return {
    runs,
    runMs,
    nodeMs,
    loadMs,
    operators: group(rows, nodeMs, (row) => row.op),
    shapes: group(rows, nodeMs, (row) => `${row.op} ${row.shapes}`),
    nodes: rows.sort((a, b) => b.ms - a.ms),
  };
}

/** The profile as lines of text: the operators, the shapes and the nodes that took longest, `top` of each. */
export function formatProfile(profile: Profile, { top = 12 }: { top?: number } = {}): string {
  const perRun = (ms: number) => (ms / Math.max(1, profile.runs)).toFixed(2).padStart(10);
  const line = (row: ProfileRow, label: string) =>
    `${perRun(row.ms)} ms ${(100 * row.share).toFixed(1).padStart(5)} % ${String(row.count / Math.max(1, profile.runs)).padStart(5)} × ${label}`;
  return [
    `${profile.runs} runs, ${perRun(profile.runMs).trim()} ms each, ${perRun(profile.nodeMs).trim()} ms of it in nodes; loaded in ${profile.loadMs.toFixed(0)} ms`,
    "by operator, per run:",
    ...profile.operators.slice(0, top).map((row) => line(row, row.key)),
    "by operator and shapes:",
    ...profile.shapes.slice(0, top).map((row) => line(row, row.key)),
    "by node:",
    ...profile.nodes.slice(0, top).map((row) => line(row, `${row.op} ${row.key} (${row.provider}) ${row.shapes}`)),
  ].join("\n");
}

function group<Row extends { count: number; ms: number }>(
  rows: readonly Row[],
  total: number,
  keyOf: (row: Row) => string,
): ProfileRow[] {
  const groups = new Map<string, { count: number; ms: number }>();
  for (const row of rows) {
    const key = keyOf(row);
    const sum = groups.get(key) ?? { count: 0, ms: 0 };
    groups.set(key, { count: sum.count + row.count, ms: sum.ms + row.ms });
  }
  return [...groups].map(([key, sum]) => ({ key, ...sum, share: share(sum.ms, total) })).sort((a, b) => b.ms - a.ms);
}

function share(ms: number, total: number): number {
  return total > 0 ? ms / total : 0;
}

function describeShapes(shapes: readonly Readonly<Record<string, readonly number[]>>[]): string {
  return shapes
    .flatMap((entry) => Object.entries(entry))
    .map(([type, shape]) => `${type}[${shape.join(",")}]`)
    .join(" ");
}
