import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type HostImage, hostImage } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline } from "../src/pipelines/index.ts";
import { cropped } from "../src/pipelines/text-to-image/mask.ts";
import { pasted } from "../src/pipelines/text-to-image/paste.ts";
import { writeTinyControlNet } from "./tiny-models.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
let plain: TextToImagePipeline;
let zero: TextToImagePipeline;
let trained: TextToImagePipeline;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-control-"));
  await writeTinyControlNet(join(folder, "zero"), model, { asNew: true });
  await writeTinyControlNet(join(folder, "trained"), model);
  const open = (controlNet?: string) => pipeline("text-to-image", model, { threads: 1, controlNet });
  plain = await open();
  zero = await open(join(folder, "zero"));
  trained = await open(join(folder, "trained"));
});
afterAll(async () => {
  for (const pipe of [plain, zero, trained]) await pipe.close();
  await rm(folder, { recursive: true });
});

const controlImage = hostImage(
  24,
  24,
  3,
  Uint8Array.from({ length: 1728 }, (_, i) => (i * 53) % 256),
);
const request = { prompt: "a photo of a red cat", steps: 4, sampler: "euler" } as const;
const farthest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
const draw = async (pipe: TextToImagePipeline, more: object = {}) =>
  (await pipe.generate({ ...request, controlImage, ...more }))[0]!.float.data;

test("a control network that is not trained yet changes nothing, whatever the picture", async () => {
  const without = (await plain.generate(request))[0]!.float.data;
  expect(farthest(await draw(zero), without)).toBeLessThan(1e-5);
});

test("a trained one steers by its picture, its scale and the steps it acts in", async () => {
  const without = (await plain.generate(request))[0]!.float.data;
  const steered = await draw(trained);
  expect(farthest(steered, without)).toBeGreaterThan(0.01);
  const other = hostImage(24, 24, 3, new Uint8Array(1728).fill(200));
  expect(farthest(await draw(trained, { controlImage: other }), steered)).toBeGreaterThan(1e-3);
  expect(farthest(await draw(trained, { controlScale: 0 }), without)).toBe(0);
  const late = await draw(trained, { controlInterval: [0.75, 1] });
  expect(farthest(late, without)).toBeGreaterThan(1e-4);
  expect(farthest(late, without)).toBeLessThan(farthest(steered, without));
  expect(farthest(await draw(trained, { controlInterval: [0, 0.2] }), without)).toBe(0);
  const both = await trained.generate({ ...request, controlImage, count: 2, batch: 2 });
  expect(farthest(both[0]!.float.data, steered)).toBeLessThan(1e-4);
});

test("with steps that are used again, what it said of the whole network's step holds for those that follow", async () => {
  const cached = (more: object = {}) => draw(trained, { stepCache: 4, ...more });
  const steered = await cached();
  // Of four steps the first alone is one of the whole network: what is asked of the others is said already.
  expect(farthest(await cached({ controlInterval: [0, 0.25] }), steered)).toBe(0);
  const without = (await plain.generate({ ...request, stepCache: 4 }))[0]!.float.data;
  expect(farthest(await cached({ controlInterval: [0.25, 1] }), without)).toBe(0);
  expect(farthest(steered, without)).toBeGreaterThan(0.01);
  // Not the same as being asked anew in each step, but nearer to that than to not being asked.
  const exact = await draw(trained);
  const [often, deep] = [
    await draw(trained, { stepCache: 2 }),
    await draw(trained, { stepCache: 2, stepCacheDepth: 3 }),
  ];
  for (const other of [steered, often, deep]) expect(farthest(other, exact)).toBeGreaterThan(0);
  expect(farthest(often, exact)).toBeLessThan(farthest(often, without));
  expect(farthest(deep, exact)).toBeLessThan(farthest(often, exact));
});

test("where only the masked part is drawn, it is cut out of the control image as of the image", async () => {
  const [width, height] = [70, 50];
  const pixels = width * height;
  const image = hostImage(
    width,
    height,
    3,
    Uint8Array.from({ length: pixels * 3 }, (_, i) => (i * 37) % 200),
  );
  const steering = hostImage(
    width,
    height,
    3,
    Uint8Array.from({ length: pixels * 3 }, (_, i) => (i * 53) % 256),
  );
  const inside = (i: number) => i % width >= 40 && i % width < 52 && i >= 20 * width && i < 26 * width;
  const mask = hostImage(
    width,
    height,
    1,
    Uint8Array.from({ length: pixels }, (_, i) => (inside(i) ? 255 : 0)),
  );
  const size = { width: 18, height: 18 };
  const masked = { image, mask, onlyMasked: true, maskPadding: 3, controlImage: steering, ...size };
  const whole = (await trained.generate({ ...request, ...masked }))[0]!;

  // The same by hand: the mask's box with three pixels around it, in the proportions that are drawn.
  const box = { left: 37, top: 14, ...size };
  const cut = (picture: HostImage) => cropped(picture, box);
  const byHand = await trained.generate({
    ...{ ...request, ...size, keepOutside: false },
    ...{ image: cut(image), mask: cut(mask), controlImage: cut(steering) },
  });
  const expected = await pasted(byHand[0]!.float, { original: image, box, share: cut(mask) });
  expect(whole.data).toEqual(expected.image.data);
  // What lies outside the box steers nothing; what lies in it does.
  const changed = (where: (i: number) => boolean) =>
    hostImage(
      width,
      height,
      3,
      steering.data.map((value, i) => (where(Math.floor(i / 3)) ? 255 - value : value)),
    );
  const drawnWith = async (controlImage: HostImage) =>
    (await trained.generate({ ...request, ...masked, controlImage }))[0]!.float.data;
  expect(farthest(await drawnWith(changed((i) => i % width < 37)), whole.float.data)).toBe(0);
  expect(farthest(await drawnWith(changed(inside)), whole.float.data)).toBeGreaterThan(1e-3);
  const small = trained.generate({ ...request, ...masked, controlImage });
  await expect(small).rejects.toMatchObject({ options: { field: "controlImage" } });
});

test("what does not fit is refused with what does", async () => {
  await expect(plain.generate({ ...request, controlImage })).rejects.toThrow(/this model has no control network/);
  await expect(trained.generate(request)).rejects.toThrow(/it needs `controlImage`/);
  await expect(pipeline("text-to-image", model, { controlNet: join(model, "unet") })).rejects.toThrow(
    /holds a UNet2DConditionModel.\nA ControlNetModel is needed/,
  );
  const odd = hostImage(23, 24, 3, new Uint8Array(23 * 24 * 3));
  await expect(trained.generate({ ...request, controlImage: odd })).rejects.toThrow(/the width is 23/);
});
