/** Training of the small networks that judge pictures: one session, one thread, so that a seed gives the same weights. */
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import type { Random } from "../src/core/random.ts";
import type { Tensor } from "../src/graph/index.ts";
import { initialize } from "../src/models/index.ts";
import type { PartGroup } from "../src/nn/index.ts";
import { adamwScalars, emaDecay, learningRate, packed, unpacked } from "../src/optim/index.ts";
import { openSession, trainingTarget } from "../src/runtime/index.ts";
import { scalarFeeds, trainingStep } from "../src/train/step.ts";

export interface SmallTraining {
  readonly steps: number;
  /** Highest learning rate; after a warm-up it falls to 0 along a cosine. */
  readonly lr: number;
  readonly weightDecay: number;
  /** Draws the weights that are started with. */
  readonly random: Random;
  /** What the graph of the loss is fed at each step. */
  readonly batch: () => Readonly<Record<string, HostTensor>>;
  /** Steps between two lines about the progress. */
  readonly every: number;
}

export interface SmallTrainingResult {
  /** The moving average of the weights, by parameter. */
  readonly tensors: ReadonlyMap<string, HostTensor<"float32">>;
  /** The loss of the last steps, about a hundred. */
  readonly loss: number;
  readonly seconds: number;
}

/** Minimizes `loss` by AdamW with the gradient's norm clipped at 1 and a moving average of the weights (0.998). */
export async function trainSmall(
  network: PartGroup,
  loss: Tensor,
  { steps, lr, weightDecay, random, batch, every }: SmallTraining,
): Promise<SmallTrainingResult> {
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  const target = await trainingTarget();
  const graph = trainingStep(network, loss, { clip: 1, weightDecay, target });
  const { layout, resident } = graph;
  const session = await openSession(graph.model.bytes, { name: "small training", threads: 1, resident });
  try {
    const start = packed(initialize(network, random), layout);
    for (const name of ["parameters", "average"]) await session.write(`state.${name}`, float32([layout.size], start));
    for (const name of ["mean", "square"]) {
      await session.write(`state.${name}`, float32([layout.size], new Float32Array(layout.size)));
    }
    const schedule = { rate: lr, kind: "cosine", warmup: 100, steps } as const;
    let recent = 0;
    for (let step = 0; step < steps; step++) {
      const rate = learningRate(step, schedule);
      const feeds = scalarFeeds(graph, { ...adamwScalars(step + 1, rate), averaging: 1 - emaDecay(step + 1, 0.998) });
      const value = Number((await session.run({ ...feeds, ...batch() })).loss!.data[0]);
      if (!Number.isFinite(value)) throw new Error(`the loss is ${value} at step ${step + 1}`);
      recent += (value - recent) / Math.min(step + 1, 100);
      if ((step + 1) % every === 0) {
        process.stderr.write(`step ${step + 1}/${steps}  loss ${recent.toFixed(4)}  ${seconds().toFixed(0)} s\n`);
      }
    }
    const average = (await session.read("state.average")).data as Float32Array;
    return { tensors: unpacked(average, layout), loss: recent, seconds: seconds() };
  } finally {
    await session.close();
  }
}
