import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type HostImage, hostImage } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline, type TextToImageRequestInput } from "../src/pipelines/index.ts";
import { cropped } from "../src/pipelines/text-to-image/mask.ts";
import { pasted } from "../src/pipelines/text-to-image/paste.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let pipe: TextToImagePipeline;
beforeAll(async () => {
  pipe = await pipeline("inpainting", model, { threads: 1 });
});
afterAll(() => pipe.close());

const request = { prompt: "a photo of a red cat", steps: 3, sampler: "euler" } as const;
const draw = async (more: Partial<TextToImageRequestInput>) => (await pipe.generate({ ...request, ...more }))[0]!;

/** Smooth in one direction, rough in the other. */
const photo = (width: number, height: number) =>
  hostImage(
    width,
    height,
    3,
    Uint8Array.from({ length: width * height * 3 }, (_, i) => (Math.floor(i / 3 / width) * 4 + ((i * 37) % 90)) % 256),
  );
/** White where `paints` says so. */
const maskOf = (width: number, height: number, paints: (x: number, y: number) => boolean) =>
  hostImage(
    width,
    height,
    1,
    Uint8Array.from({ length: width * height }, (_, i) => (paints(i % width, Math.floor(i / width)) ? 255 : 0)),
  );

/** The pixels in which two pictures differ. */
function changed(a: HostImage, b: HostImage): [number, number][] {
  expect([a.width, a.height]).toEqual([b.width, b.height]);
  const pixels = Array.from({ length: a.width * a.height }, (_, i) => i);
  const differ = (i: number) => [0, 1, 2].some((c) => a.data[3 * i + c] !== b.data[3 * i + c]);
  return pixels.filter(differ).map((i) => [i % a.width, Math.floor(i / a.width)]);
}

const image = photo(24, 24);
const right = maskOf(24, 24, (x) => x >= 14);

test("what a mask does not paint is kept to the byte; the rest is what is drawn without that", async () => {
  const [kept, raw] = [await draw({ image, mask: right }), await draw({ image, mask: right, keepOutside: false })];
  const differences = changed(kept, image);
  expect(differences.every(([x]) => x >= 14)).toBe(true);
  expect(differences.length).toBeGreaterThan(200);
  expect(changed(kept, raw).every(([x]) => x < 14)).toBe(true);
  // Through the autoencoder nothing stays as it was.
  expect(changed(raw, image).filter(([x]) => x < 14).length).toBeGreaterThan(300);
  const size = 24 * 24;
  for (let i = 0; i < 3 * size; i++) {
    expect(Math.abs(kept.float.data[i]! * 255 - kept.data[(i % size) * 3 + Math.floor(i / size)]!)).toBeLessThan(0.501);
  }
});

test("a feather lets what is painted fade into the image outside the mask", async () => {
  const common = { image, mask: right } as const;
  const [hard, soft] = [await draw(common), await draw({ ...common, maskFeather: 2 })];
  const raw = await draw({ ...common, keepOutside: false });
  const differences = changed(soft, hard);
  // A Gaussian of 2 pixels ends within 6, and inside the mask all of the painted shows.
  expect(differences.every(([x]) => x >= 8 && x < 14)).toBe(true);
  expect(new Set(differences.map(([x]) => x)).has(13)).toBe(true);
  const share = (x: number) => {
    let [sum, of] = [0, 0];
    for (let y = 0; y < 24; y++) {
      const i = (y * 24 + x) * 3;
      sum += Math.abs(soft.data[i]! - image.data[i]!);
      of += Math.abs(raw.data[i]! - image.data[i]!);
    }
    return sum / of;
  };
  expect(share(13)).toBeGreaterThan(0.7);
  expect(share(11)).toBeLessThan(share(13));
  expect(share(9)).toBeLessThan(share(11));
  expect(share(14)).toBeCloseTo(1, 5);
});

test("only the masked part is drawn, as large as the model draws, and put back where it was", async () => {
  const large = photo(70, 50);
  const mask = maskOf(70, 50, (x, y) => x >= 40 && x < 52 && y >= 20 && y < 26);
  const more = { image: large, mask, onlyMasked: true, maskPadding: 3 } as const;
  const shapes: string[] = [];
  let result: HostImage | undefined;
  for await (const { x, images } of pipe.stream({ ...request, ...more })) {
    shapes.push(x.shape.join("×"));
    result = images?.[0];
  }
  // The model's own 24×24, though the image is larger.
  expect(new Set(shapes)).toEqual(new Set(["1×4×12×12"]));
  expect(changed(result!, large).every(([x, y]) => x >= 40 && x < 52 && y >= 20 && y < 26)).toBe(true);
  expect(changed(result!, large).length).toBeGreaterThan(60);

  // The same by hand, with a box of 18×18 that is drawn at 36×36.
  const box = { left: 37, top: 14, width: 18, height: 18 };
  const size = { width: 18, height: 18 };
  const byHand = await draw({ ...size, image: cropped(large, box), mask: cropped(mask, box), keepOutside: false });
  const { image: whole } = await pasted(byHand.float, { original: large, box, share: cropped(mask, box) });
  expect((await draw({ ...more, ...size })).data).toEqual(whole.data);
  // Without keeping what is outside, all of the box is drawn; beyond it nothing is.
  const loose = changed(await draw({ ...more, ...size, keepOutside: false }), large);
  expect(loose.every(([x, y]) => x >= 37 && x < 55 && y >= 14 && y < 32)).toBe(true);
  expect(loose.length).toBeGreaterThan(250);
  // A feather is not cut off at the box: it has room, with any padding.
  const feather = changed(await draw({ ...more, maskPadding: 0, maskFeather: 4 }), large);
  expect(Math.min(...feather.map(([x]) => x))).toBeLessThan(36);
  expect(feather.some(([x, y]) => x < 40 && y >= 20 && y < 26)).toBe(true);
});

test.each<[Partial<TextToImageRequestInput>, string, RegExp]>([
  [{ image, mask: right, maskPadding: 3 }, "maskPadding", /without `onlyMasked`/],
  [{ image, mask: right, maskFeather: 2, keepOutside: false }, "maskFeather", /without `keepOutside`/],
  [{ image, mask: right, maskFeather: 2.5 }, "maskFeather", /whole number/],
  [{ image, mask: maskOf(24, 24, () => false), onlyMasked: true }, "mask", /black everywhere/],
  [{ image, mask: right, onlyMasked: true, width: 25 }, "width", /multiples of 2/],
])("%j is refused", async (more, field, message) => {
  await expect(draw(more)).rejects.toMatchObject({
    ...{ name: "UserError", options: { field }, message: expect.stringMatching(message) },
  });
});

test.each([{ maskFeather: 2 }, { onlyMasked: true }, { keepOutside: false }])("%j needs a mask", async (more) => {
  const plain = await pipeline("text-to-image", model, { threads: 1 });
  const [field] = Object.keys(more);
  await expect(plain.generate({ ...request, image, ...more })).rejects.toMatchObject({
    ...{ options: { field }, message: `\`${field}\` was given without \`mask\`.\nGive both, or none.` },
  });
  await plain.close();
});
