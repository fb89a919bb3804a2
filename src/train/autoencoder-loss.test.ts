import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { float32, type HostTensor } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { gradients, input, type Tensor, toOnnx } from "../graph/index.ts";
import { autoencoderKL, initialize, patchDiscriminator } from "../models/index.ts";
import { group, namedParameters } from "../nn/module.ts";
import { openSession, type Session } from "../runtime/index.ts";
import { autoencoderLoss, codedByGaussian, DISCRIMINATOR } from "./autoencoder-loss.ts";

/**
 * The gradients that an autoencoder and its discriminator follow, against slopes of what each minimizes along random
 * directions of its own parameters: central differences of numbers that the same graph computes.
 */

const KL_WEIGHT = 1e-3;
const WEIGHT = 0.5;
const SIDE = 12;

const autoencoder = autoencoderKL({
  in_channels: 1,
  out_channels: 1,
  block_out_channels: [8],
  norm_num_groups: 2,
  latent_channels: 2,
  mid_block_add_attention: false,
});
const discriminator = patchDiscriminator({ channels: 1, width: 4, levels: 2 });
const network = group({ autoencoder, [DISCRIMINATOR]: discriminator });
const parameters = namedParameters(network);
const names = [...parameters.keys()];
const isDiscriminator = (name: string) => name.startsWith(`${DISCRIMINATOR}.`);
const images = input("images", [2, 1, SIDE, SIDE]);
const noise = input("noise", [2, 2, SIDE, SIDE]);
const lastLayer = autoencoder.parts.decoder.parts.conv_out.parts.weight.tensor;

type Values = ReadonlyMap<string, HostTensor<"float32">>;
type Results = Record<string, HostTensor<"float32">>;

let session: Session;
let start: Values;

beforeAll(async () => {
  const coded = codedByGaussian(autoencoder, images, noise, KL_WEIGHT);
  const recipe = { reconstruction: "l1" } as const;
  const active = input("active", []);
  const adversarial = { discriminator, weight: WEIGHT, active };
  const loss = autoencoderLoss(images, coded, recipe, lastLayer, { adversarial });
  const measures = loss.measures as Record<string, Tensor>;
  const leaves = new Map([...parameters].map(([name, { tensor }]) => [name, tensor] as const));
  const followed = loss.gradients!(leaves);
  const plain = autoencoderLoss(images, coded, recipe, lastLayer);
  const own = names.filter((name) => !isDiscriminator(name));
  const byPlain = gradients(
    plain.loss,
    own.map((name) => leaves.get(name)!),
  );
  const outputs = {
    ...measures,
    penalty: coded.penalty,
    loss: loss.loss,
    ...Object.fromEntries(names.map((name, i) => [`gradient ${name}`, followed[i]!])),
    ...Object.fromEntries(own.map((name, i) => [`plain ${name}`, byPlain[i]!])),
    lastByLikeness: gradients(measures.reconstruction!, [lastLayer])[0]!,
    lastByVerdict: gradients(measures.adversarial!, [lastLayer])[0]!,
  };
  const named = new Map([...leaves].map(([name, leaf]) => [leaf, name] as const));
  const graph = toOnnx(outputs, {
    bind: (leaf) => (named.has(leaf) ? { kind: "input", name: named.get(leaf)! } : undefined),
  });
  session = await openSession(graph.bytes, { name: "losses", threads: 1 });
  // Far enough from the start that every layer matters to both.
  const random = seeded(4);
  start = new Map(
    [...initialize(network, seeded(3))].map(([name, { shape, data }]) => {
      const moved = random.normal(shape, { std: 0.1 }).data;
      return [
        name,
        float32(
          shape,
          data.map((x, i) => x + moved[i]!),
        ),
      ];
    }),
  );
});
afterAll(() => session?.close());

async function at(values: Values, active: 0 | 1): Promise<Results> {
  const feeds = {
    images: seeded(1).uniform(images.shape, { low: -1, high: 1 }),
    noise: seeded(2).normal(noise.shape),
    active: float32([], [active]),
  };
  return (await session.run({ ...Object.fromEntries(values), ...feeds })) as Results;
}

const number = (results: Results, name: string) => Number(results[name]!.data[0]);
const norm = ({ data }: HostTensor<"float32">) => Math.hypot(...data);

/** A direction of the parameters of one network, of length 1, mostly along the gradient. */
function directionOf(results: Results, ofDiscriminator: boolean): Values {
  const random = seeded(9);
  const own = names.filter((name) => isDiscriminator(name) === ofDiscriminator);
  const slopes = own.map((name) => results[`gradient ${name}`]!);
  const steep = Math.hypot(...slopes.map(norm));
  const count = slopes.reduce((total, { data }) => total + data.length, 0);
  const drawn = slopes.map(({ shape, data }) => {
    const noise = random.normal(shape).data;
    return float32(
      shape,
      data.map((g, i) => g / steep + (0.3 * noise[i]!) / Math.sqrt(count)),
    );
  });
  const length = Math.hypot(...drawn.map(norm));
  return new Map(
    own.map((name, i) => [
      name,
      float32(
        drawn[i]!.shape,
        drawn[i]!.data.map((x) => x / length),
      ),
    ]),
  );
}

/** The slope of each number along a direction, by central differences. */
async function slopes(direction: Values, of: readonly string[]): Promise<Record<string, number>> {
  const reach = 5e-4;
  const [ahead, behind] = await Promise.all(
    [reach, -reach].map((distance) => {
      const moved = new Map(start);
      for (const [name, { shape, data }] of direction) {
        const from = start.get(name)!.data;
        moved.set(
          name,
          float32(
            shape,
            Float32Array.from(data, (d, i) => from[i]! + distance * d),
          ),
        );
      }
      return at(moved, 1);
    }),
  );
  return Object.fromEntries(of.map((name) => [name, (number(ahead!, name) - number(behind!, name)) / (2 * reach)]));
}

/** What the gradients that are followed say of a direction. */
function along(direction: Values, results: Results): number {
  let sum = 0;
  for (const [name, { data }] of direction) {
    data.forEach((d, i) => {
      sum += d * results[`gradient ${name}`]!.data[i]!;
    });
  }
  return sum;
}

describe("an autoencoder and its discriminator", () => {
  test("the autoencoder follows its own loss with the adaptive weight held, and nothing of the discriminator's", async () => {
    const results = await at(start, 1);
    const weight = number(results, "adversarialWeight");
    const direction = directionOf(results, false);
    const slope = await slopes(direction, ["reconstruction", "penalty", "adversarial", "discriminator"]);
    const expected = slope.reconstruction! + slope.penalty! + weight * slope.adversarial!;
    const found = along(direction, results);
    expect(Math.abs(found / expected - 1)).toBeLessThan(0.01);
    // Both would be seen: the verdict's part in the gradient, and the discriminator's loss if it leaked in.
    expect(Math.abs(weight * slope.adversarial!)).toBeGreaterThan(0.05 * Math.abs(expected));
    expect(Math.abs(slope.discriminator!)).toBeGreaterThan(0.05 * Math.abs(expected));
  });

  test("the discriminator follows the hinge loss, and nothing of the autoencoder's", async () => {
    const results = await at(start, 1);
    const direction = directionOf(results, true);
    const slope = await slopes(direction, ["discriminator", "loss"]);
    expect(Math.abs(along(direction, results) / slope.discriminator! - 1)).toBeLessThan(0.01);
    expect(Math.abs(slope.loss!)).toBeGreaterThan(0.05 * Math.abs(slope.discriminator!));
  });

  test("the adaptive weight is the quotient of the gradients' norms at the last layer (Esser et al. 2021, eq. 7)", async () => {
    const results = await at(start, 1);
    const quotient = norm(results.lastByLikeness!) / (norm(results.lastByVerdict!) + 1e-4);
    expect(number(results, "adversarialWeight")).toBeCloseTo(WEIGHT * quotient, 5);
    const { loss, reconstruction, penalty, adversarial } = Object.fromEntries(
      ["loss", "reconstruction", "penalty", "adversarial"].map((name) => [name, number(results, name)]),
    );
    expect(loss).toBeCloseTo(reconstruction! + penalty! + WEIGHT * quotient * adversarial!, 5);
    const { real, fake } = { real: number(results, "real"), fake: number(results, "fake") };
    expect(adversarial).toBeCloseTo(-fake, 6);
    expect(number(results, "discriminator")).toBeGreaterThanOrEqual(0.5 * (1 - real + 1 + fake) - 1e-5);
  });

  test("switched off, the discriminator stands still and the autoencoder follows what it would without one", async () => {
    const results = await at(start, 0);
    expect(number(results, "adversarialWeight")).toBe(0);
    for (const name of names) {
      const { data } = results[`gradient ${name}`]!;
      if (isDiscriminator(name)) {
        expect(data.every((value) => value === 0)).toBe(true);
        continue;
      }
      const plain = results[`plain ${name}`]!;
      const largest = plain.data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-4);
      plain.data.forEach((value, i) => {
        expect(Math.abs(data[i]! - value), name).toBeLessThan(1e-4 * largest);
      });
    }
  });
});
