import { describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { learnVocabulary } from "../data/index.ts";
import { flowPath } from "../diffusion/index.ts";
import { input, toOnnx } from "../graph/index.ts";
import { bindWeights, initialize } from "../models/index.ts";
import { namedParameters, parameterCount } from "../nn/module.ts";
import { adamwScalars, packed, unpacked } from "../optim/index.ts";
import { openSession } from "../runtime/index.ts";
import { type Condition, classCondition, withDropout } from "./condition.ts";
import { conditionedNetwork, DENOISERS, type Denoiser, denoiserComponent } from "./denoisers.ts";
import { diffusionLoss, drawTimesteps, type Objective, timestepsInput } from "./objective.ts";
import { STATE } from "./step.ts";
import { openStepRunner } from "./step-runner.ts";
import { trainedText } from "./text-condition.ts";

const CAPTIONS = ["a red heart", "a blue heart", "a smiling cat", "two dogs"];
const sample = [4, 8, 8] as const;
const objective: Objective = { schedule: flowPath(), predict: "flow" };

const vocabulary = learnVocabulary(CAPTIONS, { size: 530, minimum: 1 });
const text = () => trainedText({ vocabulary, maxLength: 8, width: 32, layers: 2, heads: 2 });
const classes = () => classCondition(4);
const transformer = { sample, width: 32, depth: 2, heads: 2 };
const convolutional = { sample, channels: [8, 16], layers: 1, attentionAt: [4] };

interface Case {
  readonly condition: Condition<never>;
  readonly denoiser: Denoiser;
  /** What the four pictures are. */
  readonly given: readonly never[];
}
function cases<Given>(condition: Condition<Given>, denoiser: Denoiser, given: readonly Given[]): Case {
  return { condition, denoiser, given } as unknown as Case;
}
const withText = (build: (condition: Condition) => Denoiser) => {
  const condition = text();
  return cases(condition, build(condition), CAPTIONS);
};
const withClasses = (build: (condition: Condition<number>) => Denoiser) => {
  const condition = classes();
  return cases(condition, build(condition), [0, 1, 2, 3]);
};
const CASES: Readonly<Record<string, () => Case>> = {
  "U-Net with text": () => withText(({ shape }) => DENOISERS.unet({ ...convolutional, condition: shape })),
  "DiT with text": () => withText(({ shape }) => DENOISERS.dit({ ...transformer, condition: shape })),
  "MM-DiT with text": () => withText(({ shape }) => DENOISERS.mmdit({ ...transformer, condition: shape })),
  "U-Net with classes": () => withClasses(({ shape }) => DENOISERS.unet({ ...convolutional, condition: shape })),
  "DiT with classes": () => withClasses(({ shape }) => DENOISERS.dit({ ...transformer, condition: shape })),
};

/** The loss of `count` images, reading `x0`, `noise`, `timesteps` and the condition's inputs. */
function lossOf({ condition, denoiser }: Case, count: number) {
  const states = condition.states(count);
  return diffusionLoss((x, t) => denoiser.call(x, t, states), objective, {
    x0: input("x0", [count, ...sample]),
    noise: input("noise", [count, ...sample]),
    timesteps: timestepsInput(objective, count),
  });
}

const BATCH = 16;
const STEPS = 130;

/** Learns four latents by heart. */
async function learned(one: Case) {
  const { condition, denoiser, given } = one;
  const network = conditionedNetwork(denoiser, condition);
  const random = seeded(11);
  const latents = Array.from({ length: 4 }, () => random.normal(sample));
  const start = initialize(network, random);
  const frozen = new Map([...start].filter(([name]) => !namedParameters(network).get(name)!.trainable));
  const lossOfBatch = (n: number) => lossOf(one, n);
  const runner = await openStepRunner({ network, lossOf: lossOfBatch, batch: BATCH, clip: 1, threads: 1, frozen });
  try {
    for (const name of STATE) {
      const zero = name === "mean" || name === "square";
      await runner.write(name, zero ? new Float32Array(runner.layout.size) : packed(start, runner.layout));
    }
    const losses: number[] = [];
    for (let n = 1; n <= STEPS; n++) {
      const chosen = Array.from({ length: BATCH }, () => random.integer(0, 4));
      const feeds: Record<string, HostTensor> = {
        x0: together(chosen.map((i) => latents[i]!)),
        noise: random.normal([BATCH, ...sample]),
        timesteps: drawTimesteps(objective, BATCH, random),
        ...condition.feeds(chosen.map((i) => given[i]!)),
      };
      const { loss } = await runner.step([feeds], { ...adamwScalars(n, 4e-3), averaging: 0.1 });
      losses.push(loss);
    }
    const weights = new Map([...start, ...unpacked(await runner.read("parameters"), runner.layout)]);
    return { network, latents, losses, start, weights, moments: unpacked(await runner.read("mean"), runner.layout) };
  } finally {
    await runner.close();
  }
}

function together(latents: readonly HostTensor<"float32">[]): HostTensor<"float32"> {
  const size = latents[0]!.data.length;
  const data = new Float32Array(latents.length * size);
  latents.forEach((each, i) => {
    data.set(each.data, i * size);
  });
  return float32([latents.length, ...latents[0]!.shape], data);
}

/** Of the text only keys and values count in the last block of MM-DiT: nothing comes after it. */
const UNUSED = /transformer_blocks\.1\.attn\.(norm_added_q|add_q_proj)\./;

const meanOf = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

describe("learning four latents by heart:", () => {
  test.each(Object.keys(CASES))("%s", async (name) => {
    const one = CASES[name]!();
    const { network, latents, losses, start, weights, moments } = await learned(one);
    expect(meanOf(losses.slice(-10))).toBeLessThan(0.6 * losses[0]!);

    // Every part took part: no parameter stands where it started, and none is without a gradient.
    const still = [...namedParameters(network)]
      .filter(([key, { trainable }]) => trainable && !UNUSED.test(key))
      .map(([key]) => key)
      .filter((key) => {
        const [before, after] = [start.get(key)!.data, weights.get(key)!.data];
        return before.every((value, i) => value === after[i]) || moments.get(key)!.data.every((value) => value === 0);
      });
    expect(still).toEqual([]);

    // Most of what it says of nearly pure noise comes from the condition.
    const loss = toOnnx({ loss: lossOf(one, 4) }, { bind: bindWeights(network, weights) });
    const session = await openSession(loss.bytes, { name, threads: 1 });
    const errorWith = async (given: readonly never[]) => {
      const feeds = {
        x0: together(latents),
        noise: seeded(5).normal([4, ...sample]),
        timesteps: float32([4], [900, 900, 900, 900]),
        ...one.condition.feeds(given),
      };
      return Number((await session.run(feeds)).loss!.data[0]);
    };
    const right = await errorWith(one.given);
    const swapped = await errorWith([...one.given.slice(1), one.given[0]!]);
    const none = await errorWith(Array(4).fill(one.condition.none) as never[]);
    await session.close();
    expect(swapped).toBeGreaterThan(1.5 * right);
    expect(none).toBeGreaterThan(1.2 * right);
  });
});

describe("a denoiser that starts from nothing", () => {
  test.each(Object.keys(CASES).filter((name) => name !== "U-Net with classes"))(
    "says nothing and changes nothing at first: %s",
    async (name) => {
      const one = CASES[name]!();
      const network = conditionedNetwork(one.denoiser, one.condition);
      const output = one.denoiser.call(input("x", [4, ...sample]), input("t", [4]), one.condition.states(4));
      const graph = toOnnx({ output }, { bind: bindWeights(network, initialize(network, seeded(0))) });
      const session = await openSession(graph.bytes, { name, threads: 1 });
      const feeds = { x: seeded(1).normal([4, ...sample]), t: float32([4], [0, 300, 600, 1000]) };
      const all: Record<string, HostTensor> = { ...feeds, ...one.condition.feeds(one.given) };
      const said = await session.run(Object.fromEntries(session.inputs.map(({ name }) => [name, all[name]!])));
      await session.close();
      expect(said.output!.shape).toEqual([4, ...sample]);
      expect((said.output!.data as Float32Array).every((value) => value === 0)).toBe(true);
    },
  );
});

test("parts are told apart by their names, and come apart again as the folders of a pipeline", () => {
  const condition = text();
  const denoiser = DENOISERS.unet({ ...convolutional, condition: condition.shape });
  const network = conditionedNetwork(denoiser, condition);
  const names = [...namedParameters(network).keys()];
  expect(names.filter((name) => !/^(text_encoder\.text_model|unet)\./.test(name))).toEqual([]);
  const weights = initialize(network, seeded(0));
  const folders = { ...condition.components(weights), ...denoiserComponent(denoiser, weights) };
  expect(Object.entries(folders).map(([name, { className }]) => [name, className])).toEqual([
    ["text_encoder", "CLIPTextModel"],
    ["tokenizer", "CLIPTokenizer"],
    ["unet", "UNet2DConditionModel"],
  ]);
  const { text_encoder, unet } = folders as Record<string, { tensors: ReadonlyMap<string, HostTensor> }>;
  expect(text_encoder!.tensors.size + unet!.tensors.size).toBe(names.length);
  expect(unet!.tensors.get("conv_in.weight")).toBe(weights.get("unet.conv_in.weight"));
  expect(parameterCount(network)).toBe(
    parameterCount(denoiser.network) + parameterCount(condition.parts.text_encoder!),
  );
});

test("no condition takes the place of a share of the conditions, drawn by the source that is given", () => {
  const given = Array.from({ length: 2000 }, (_, i) => `caption ${i}`);
  const kept = withDropout(given, "", 0.1, seeded(4));
  const dropped = seeded(4).bernoulli(0.1, [2000]).data;
  expect(kept).toEqual(given.map((caption, i) => (dropped[i] ? "" : caption)));
  expect(kept.filter((caption) => caption === "").length).toBeGreaterThan(150);
  const random = seeded(4);
  expect(withDropout(given, "", 0, random)).toEqual(given);
  expect(random.state()).toEqual(seeded(4).state());
});

test("what cannot be built or asked for is refused with what to do", () => {
  const condition = text().shape;
  const refused = [
    () => DENOISERS.dit({ sample, width: 32, depth: 1 }),
    () => DENOISERS.mmdit({ sample, width: 32, depth: 1, condition: classes().shape }),
    () => DENOISERS.mmdit({ ...transformer, condition: { text: { ...condition.text!, pooledWidth: undefined } } }),
    () => DENOISERS.dit({ ...transformer, patch: 3, condition }),
    () => DENOISERS.dit({ ...transformer, heads: 5, condition }),
    () => DENOISERS.unet({ ...convolutional, attentionAt: [], middleAttention: false, condition }),
    () => DENOISERS.unet({ ...convolutional, attentionAt: [5], condition }),
    () => classCondition(0),
    () => classes().feeds([5]),
    () => trainedText({ vocabulary, maxLength: 8, width: 30, heads: 4 }),
  ];
  for (const attempt of refused) expect(attempt).toThrow(UserError);
});

test("captions that are longer than the text encoder can read are named", () => {
  expect(text().warnings(CAPTIONS)).toEqual([]);
  const long = "a red heart and a red heart and a blue heart";
  expect(text().warnings([...CAPTIONS, long, long])).toEqual([
    expect.stringMatching(/^One caption has more than the 8/),
  ]);
});
