import { expect, test } from "vitest";
import { float32, type HostTensor } from "../../core/host-tensor.ts";
import { seeded } from "../../core/random.ts";
import { input, toOnnx } from "../../graph/index.ts";
import { bindWeights, controlNet, initialize, type WeightSource } from "../../models/index.ts";
import { forInference } from "../../nn/index.ts";
import { openSession } from "../../runtime/index.ts";
import { type PartJob, type PartSessions, partSessions } from "../part-sessions.ts";
import { type ControlCall, controlOf } from "./control.ts";

const config = {
  block_out_channels: [8, 16],
  down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
  layers_per_block: 1,
  norm_num_groups: 4,
  cross_attention_dim: 12,
  attention_head_dim: 2,
  conditioning_embedding_out_channels: [4, 8],
  addition_embed_type: "text_time",
  addition_time_embed_dim: 4,
  projection_class_embeddings_input_dim: 28,
};
const noise = seeded(6);
/** A control network and its weights. */
function partOf(more: object = {}) {
  const network = controlNet({ ...config, ...more });
  const stored = new Map(
    // Layers that start at zero would hide what others compute.
    [...initialize(network, seeded(5))].map(([name, { shape }]) => [name, noise.normal(shape, { std: 0.2 })]),
  );
  return {
    name: "controlnet",
    network,
    weights: { source: "control", bound: stored as WeightSource, externalData: "." },
  };
}

const part = partOf();
const random = seeded(3);
const latents = random.normal([2, 4, 4, 4]);
const conditions = {
  text: random.normal([2, 5, 12]),
  textEmbeds: random.normal([2, 4]),
  timeIds: random.normal([2, 6]),
};
const control = {
  picture: random.normal([1, 3, 8, 8]),
  scale: 0.7,
  interval: [0, 1],
  first: 0,
  seamless: undefined,
} as const;

/** The jobs that a run of two steps asks of the network, and what they gave. */
async function asked(change: (job: PartJob) => PartJob = (job) => job) {
  const jobs: PartJob[] = [];
  const own = partSessions(part, { threads: 1 });
  const sessions: PartSessions = {
    ...own,
    run: (job, options) => {
      jobs.push(job);
      return own.run(change(job), options);
    },
  };
  const call = controlOf(part, sessions, control);
  const results: HostTensor[] = [];
  for (const step of [0, 1]) {
    const given: ControlCall = { latents, timestep: 900 - 500 * step, conditions, signal: undefined };
    const said = await call(given, { step, steps: 2 });
    results.push(...Object.values(said!));
  }
  await own.close();
  return { jobs, results };
}

test("the picture's embedding and the text's keys and values are computed once a run, and change nothing", async () => {
  const { jobs, results } = await asked();
  const whole = await asked((job) => ({ ...job, steady: [] }));
  expect(results.length).toBe(whole.results.length);
  for (const [i, { data }] of results.entries()) {
    const expected = whole.results[i]!.data as Float32Array;
    for (const [j, value] of (data as Float32Array).entries()) expect(value).toBeCloseTo(expected[j]!, 5);
  }

  const [{ feeds, graph, steady }] = jobs as [PartJob];
  const inputs = Object.entries(feeds).map(([name, { shape, dtype }]) => [name, input(name, shape, dtype)] as const);
  const outputs = forInference(() => graph(Object.fromEntries(inputs)));
  const { bytes, ahead } = toOnnx(outputs, { bind: bindWeights(part.network, part.weights.bound), steady });
  expect(ahead.map(({ inputs }) => Object.keys(inputs).sort())).toEqual([["picture", "text", "textEmbeds", "timeIds"]]);
  const handed = Object.values(ahead[0]!.outputs).map(({ shape }) => shape);
  // The embedded picture, of the latents' size, and what two layers of attention take of the text.
  expect(handed).toContainEqual([2, 8, 4, 4]);
  expect(handed.filter((shape) => shape.includes(5)).length).toBe(4);
  const main = await openSession(bytes, { threads: 1 });
  const taken = main.inputs.map(({ name }) => name);
  await main.close();
  for (const name of steady!) expect(taken).not.toContain(name);
  expect(taken).toEqual(expect.arrayContaining(["latents", "timestep", "scale", ...Object.keys(ahead[0]!.outputs)]));
});

test("a step with another picture gives what that picture gives", async () => {
  const sessions = partSessions(part, { threads: 1 });
  const given: ControlCall = { latents, timestep: 500, conditions, signal: undefined };
  const said = async (value: number) => {
    const picture = float32([1, 3, 8, 8], new Float32Array(192).fill(value));
    return (await controlOf(part, sessions, { ...control, picture })(given, { step: 0, steps: 2 }))!.mid!.data;
  };
  const first = await said(0.2);
  expect(await said(0.9)).not.toEqual(first);
  expect(await said(0.2)).toEqual(first);
  await sessions.close();
});

test("one without attention runs without looking at the text", async () => {
  const none = { down_block_types: ["DownBlock2D", "DownBlock2D"], transformer_layers_per_block: [0, 0] };
  const blind = partOf({ ...none, mid_block_type: "UNetMidBlock2D" });
  const sessions = partSessions(blind, { threads: 1 });
  const call = controlOf(blind, sessions, control);
  const said = async (text: HostTensor<"float32">) => {
    const given = { latents, timestep: 500, conditions: { ...conditions, text }, signal: undefined };
    return (await call(given, { step: 0, steps: 2 }))!.mid!.data;
  };
  const first = await said(conditions.text);
  expect(first.some((value) => value !== 0)).toBe(true);
  expect(await said(random.normal([2, 5, 12]))).toEqual(first);
  await sessions.close();
});
