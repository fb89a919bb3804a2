import { expect, test } from "vitest";
import { float32 } from "../../core/host-tensor.ts";
import { seeded } from "../../core/random.ts";
import type { Samples } from "../../diffusion/index.ts";
import { measuredColours } from "./measured-colours.ts";
import type { Colours } from "./preview.ts";

const truth: Colours = {
  channels: [
    [0.5, 0.1, -0.2],
    [-0.3, 0.2, 0.4],
    [0.05, 0, 0.1],
  ],
  offset: [0.1, -0.2, 0.3],
};

/** What an autoencoder would make of latents if it were linear, each pixel four times as wide and high, with noise. */
function decoded({ shape, data }: Samples, noise: number): Samples {
  const [n, channels, h, w] = shape as [number, number, number, number];
  const random = seeded(5).normal([n * 3 * h * w * 16]).data;
  const pixels = Float32Array.from({ length: n * 3 * h * w * 16 }, (_, i) => {
    const x = Math.floor((i % (4 * w)) / 4);
    const y = Math.floor((Math.floor(i / (4 * w)) % (4 * h)) / 4);
    const plane = Math.floor(i / (16 * h * w));
    const [picture, rgb] = [Math.floor(plane / 3), plane % 3];
    let value = truth.offset[rgb]! + noise * random[i]!;
    for (let c = 0; c < channels; c++)
      value += truth.channels[c]![rgb]! * data[((picture * channels + c) * h + y) * w + x]!;
    return value;
  });
  return float32([n, 3, 4 * h, 4 * w], pixels);
}

const flat = ({ channels, offset }: Colours) => [...channels.flat(), ...offset];
const error = (colours: Colours) => {
  const right = flat(truth);
  return flat(colours).reduce((most, value, i) => Math.max(most, Math.abs(value - right[i]!)), 0);
};

test("what was decoded says how latents look, the better the more there was", () => {
  const measured = measuredColours(undefined);
  expect(measured.current()).toBeUndefined();
  const latents = (seed: number) => seeded(seed).normal([2, 3, 8, 6]);
  measured.learn(latents(1), decoded(latents(1), 0.1));
  const once = error(measured.current()!);
  for (let seed = 2; seed < 40; seed++) measured.learn(latents(seed), decoded(latents(seed), 0.1));
  const often = error(measured.current()!);
  expect(once).toBeLessThan(0.15);
  expect(often).toBeLessThan(once / 3);
  expect(often).toBeLessThan(0.01);
});

test("what is published stands until something is seen, and where a picture says nothing of a channel", () => {
  const published: Colours = {
    channels: truth.channels.map(([r, g, b]) => [r + 0.2, g, b] as const),
    offset: [0, 0, 0],
  };
  const measured = measuredColours(published);
  expect(measured.current()).toBe(published);
  // A picture whose last channel is 0 everywhere, and whose others hardly differ from each other.
  const latents = seeded(1).normal([1, 3, 8, 8]);
  latents.data.fill(0, 128);
  measured.learn(latents, decoded(latents, 0));
  const { channels } = measured.current()!;
  expect(channels[2]).toEqual(published.channels[2]!.map((value) => expect.closeTo(value, 10)));
  expect(Math.abs(channels[0]![0] - truth.channels[0]![0])).toBeLessThan(0.06);
});

test("latents of another number of channels than is published are fitted from nothing", () => {
  const measured = measuredColours({ channels: [[1, 1, 1]], offset: [0, 0, 0] });
  const latents = seeded(1).normal([1, 3, 16, 16]);
  measured.learn(latents, decoded(latents, 0));
  expect(error(measured.current()!)).toBeLessThan(0.06);
});
