import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { encodeImage, type HostImage, hostImage, saveImage } from "../src/io/index.ts";
import {
  type UnconditionalPipeline,
  type UnconditionalRequestInput,
  unconditionalPipeline,
} from "../src/pipelines/index.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

let folder: string;
let pipe: UnconditionalPipeline;
let patched: UnconditionalPipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-editing-"));
  await writeTinyPipeline(join(folder, "classes"), {
    classes: ["a", "b"],
    classDropout: true,
    size: 8,
    imageChannels: 1,
  });
  await writeTinyPipeline(join(folder, "patched"), { patch: 2, size: 16 });
  pipe = await unconditionalPipeline(join(folder, "classes"), { threads: 1 });
  patched = await unconditionalPipeline(join(folder, "patched"), { threads: 1 });
});

afterAll(async () => {
  await pipe.close();
  await patched.close();
  await rm(folder, { recursive: true });
});

/** Smooth and away from black and white, where rounding to bytes would hide differences. */
function picture(size = 8, channels: 1 | 3 = 1): HostImage {
  const data = Uint8Array.from({ length: size * size * channels }, (_, i) => 128 + Math.round(70 * Math.sin(i / 5)));
  return hostImage(size, size, channels, data);
}

const distance = (a: HostImage, b: HostImage) =>
  a.data.reduce((sum, value, i) => sum + Math.abs(value - b.data[i]!), 0) / a.data.length;

test("image-to-image runs the last steps of a run, and stays nearer to the image the weaker it is", async () => {
  const image = picture();
  const drawn = async (strength: number) => {
    const states: number[] = [];
    let result: HostImage[] = [];
    for await (const state of pipe.stream({ image, strength, count: 2, steps: 20, sampler: "euler" })) {
      states.push(state.timestep);
      expect(state.steps).toBe(Math.trunc(20 * strength));
      expect(state.total).toBe(state.steps);
      result = [...(state.images ?? [])];
    }
    expect(states).toHaveLength(Math.trunc(20 * strength));
    return result;
  };
  const [weak, strong] = [await drawn(0.1), await drawn(0.9)];
  expect(distance(weak[0]!, image)).toBeLessThan(distance(strong[0]!, image));
  expect(distance(weak[0]!, weak[1]!)).toBeGreaterThan(0); // another seed, another picture
});

test("a picture can be a path, a data: URL or pixels", async () => {
  const path = join(folder, "picture.png");
  await saveImage(path, picture());
  const url = `data:image/png;base64,${Buffer.from(await encodeImage(picture(), "png")).toString("base64")}`;
  const request = { strength: 0.5, count: 1, steps: 4 };
  const [one] = await pipe.generate({ ...request, image: path });
  expect(await pipe.generate({ ...request, image: url })).toEqual([one]);
  expect(await pipe.generate({ ...request, image: picture() })).toEqual([one]);
});

test("a mask keeps the black part of the image to the byte and paints the white part", async () => {
  for (const [model, image] of [
    [pipe, picture()],
    [patched, picture(16, 3)],
  ] as const) {
    const { width, height, channels } = image;
    const left = (i: number) => i % width < width / 2;
    const mask = hostImage(
      width,
      height,
      1,
      Uint8Array.from({ length: width * height }, (_, i) => (left(i) ? 0 : 255)),
    );
    for (const sampler of ["ddpm", "heun", "dpm++2m"] as const) {
      const [painted] = await model.generate({ image, mask, count: 1, steps: 5, sampler });
      let changed = 0;
      painted!.data.forEach((value, i) => {
        if (left(Math.floor(i / channels))) expect(value).toBe(image.data[i]);
        else if (value !== image.data[i]) changed++;
      });
      expect(changed).toBeGreaterThan((width * height * channels) / 4);
    }
  }
});

test("pictures between two seeds start and end with the pictures of these seeds, in any batch", async () => {
  for (const sampler of ["ddim", "ddpm"] as const) {
    const request = { steps: 4, sampler, class: "a" } as const;
    const all = await pipe.generate({ ...request, between: [3, 8], count: 5 });
    const [first, last] = await pipe.generate({ ...request, seeds: [3, 8] });
    expect(all[0]!.data).toEqual(first!.data);
    expect(all[4]!.data).toEqual(last!.data);
    expect(all.map(({ seed, toward }) => [seed, toward])).toEqual(
      [0, 0.25, 0.5, 0.75, 1].map((share) => [3, { seed: 8, share }]),
    );
    expect(distance(all[1]!, all[0]!)).toBeLessThan(distance(all[4]!, all[0]!));
    const split = await pipe.generate({ ...request, between: [3, 8], count: 5, batch: 2 });
    split.forEach((image, i) => {
      expect(distance(image, all[i]!)).toBeLessThan(0.1);
    });
  }
});

test("an inverted image comes back, and as another class it does not", async () => {
  const image = picture();
  let steps = 0;
  let noisiest = 0;
  for await (const state of pipe.stream({ image, invert: true, count: 1, steps: 50, class: "a" })) {
    steps++;
    if (steps === 50) noisiest = Math.sqrt(state.x.data.reduce((sum, v) => sum + v * v, 0) / state.x.data.length);
    expect(state.done).toBe(steps);
    expect(state.total).toBe(100);
  }
  expect(steps).toBe(100);
  expect(noisiest).toBeGreaterThan(0.1);
  const drawn = async (request: UnconditionalRequestInput) =>
    (await pipe.generate({ image, invert: true, count: 1, steps: 50, ...request }))[0]!;
  const back = distance(await drawn({ class: "a" }), image);
  expect(back).toBeLessThan(3); // of 255
  expect(distance(await drawn({ class: "a", sampler: "dpm++2m" }), image)).toBeLessThan(12);
  const other = distance(await drawn({ class: "b", imageClass: "a" }), image);
  expect(other).toBeGreaterThan(2 * back);
  const coarse = distance(await drawn({ class: "a", steps: 4 }), image);
  expect(coarse).toBeGreaterThan(back);
});

test.each([
  ["an image of another size", { image: picture(16) }, /image is 16×16 \(height × width\); 8×8/],
  ["a mask of another size", { image: picture(), mask: picture(16) }, /mask is 16×16/],
  ["a colour image as pixels for a gray model", { image: picture(8, 3) }, /3 channels; 1 are needed/],
  ["a mask without an image", { mask: picture() }, /`mask` was given without `image`/],
  ["a strength without an image", { strength: 0.5 }, /`strength` was given without `image`/],
  ["inversion without an image", { invert: true }, /`invert` was given without `image`/],
  ["a strength of 0", { image: picture(), strength: 0 }, /strength: 0 was given. Accepted is more than 0/],
  ["a strength above 1", { image: picture(), strength: 1.5 }, /strength: 1.5 was given. Accepted is at most 1/],
  ["a strength that leaves no step", { image: picture(), strength: 0.1, steps: 5 }, /leaves none of 5 steps/],
  ["a strength of an inversion", { image: picture(), invert: true, strength: 0.5 }, /Both `invert` and `strength`/],
  ["a mask of an inversion", { image: picture(), invert: true, mask: picture() }, /Both `invert` and `mask`/],
  ["a stochastic sampler after inversion", { image: picture(), invert: true, sampler: "ddpm" }, /ddpm adds noise/],
  ["noise after inversion", { image: picture(), invert: true, eta: 0.5 }, /ddim adds noise/],
  ["a class of no inversion", { imageClass: "a" }, /`imageClass` was given without `invert`/],
  ["an unknown class of the image", { image: picture(), invert: true, imageClass: "z" }, /no class "z"/],
  ["one picture between two seeds", { between: [1, 2], count: 1 }, /the two ends are two/],
  ["seeds beside two ends", { between: [1, 2], seeds: [4] }, /Both `between` and `seeds`/],
  ["a seed beside two ends", { between: [1, 2], seed: 4, count: 2 }, /Both `between` and `seed`/],
  ["a file that is not there", { image: "nowhere.png" }, /There is no file nowhere.png/],
  ["a data: URL without base64", { image: "data:image/png,abc" }, /without base64/],
  ["a damaged picture", { image: "data:image/png;base64,AAAA" }, /cannot be decoded/],
  ["something else for an image", { image: { width: 3 } }, /Accepted is a path, a data: URL/],
])("%s is a user's mistake", async (_, request, message) => {
  const drawing = pipe.generate({ count: 1, steps: 4, ...request } as UnconditionalRequestInput);
  await expect(drawing).rejects.toThrow(message);
  await expect(drawing).rejects.toBeInstanceOf(UserError);
});

test("noise for an image draws from its seed as ever: the same request gives the same picture", async () => {
  const request = { image: picture(), strength: 0.7, steps: 6, sampler: "euler-ancestral", count: 3 } as const;
  const whole = await pipe.generate({ ...request, class: "b" });
  expect(await pipe.generate({ ...request, class: "b" })).toEqual(whole);
  const [alone] = await pipe.generate({ ...request, class: "b", count: 1, seed: whole[2]!.seed });
  expect(distance(alone!, whole[2]!)).toBeLessThan(0.1);
});
