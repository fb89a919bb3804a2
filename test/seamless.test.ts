import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Random, seeded } from "../src/core/random.ts";
import { type HostImage, hostImage } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline, type TextToImageRequestInput } from "../src/pipelines/index.ts";
import { resizedSeamless } from "../src/pipelines/text-to-image/seamless.ts";

// Pictures tile where nothing in a run knows where an edge is: then rolled noise gives a rolled picture, to the same value
// at every pixel, those at the seam included.

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let pipe: TextToImagePipeline;
beforeAll(async () => {
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(() => pipe.close());

type Roll = readonly [down: number, right: number];

/** Planes of h × w numbers moved down and to the right; what leaves them comes in at the other side. */
function rolled<T extends Float32Array | Uint8Array>(
  data: T,
  [h, w]: readonly [number, number],
  [down, right]: Roll,
): T {
  const moved = data.slice() as T;
  for (let i = 0; i < data.length; i++) {
    const [plane, y, x] = [Math.floor(i / (h * w)), Math.floor(i / w) % h, i % w];
    moved[(plane * h + ((y + down) % h)) * w + ((x + right) % w)] = data[i]!;
  }
  return moved;
}

/** Torch's numbers for a seed, each draw of latents rolled. */
function rolledNoise(seed: number, roll: Roll): Random {
  const random = seeded(seed);
  return {
    ...random,
    normal(shape, options) {
      const drawn = random.normal(shape, options);
      return { ...drawn, data: rolled(drawn.data, [shape.at(-2)!, shape.at(-1)!], roll) };
    },
  };
}

async function draw(more: Partial<TextToImageRequestInput>, random: Random): Promise<Float32Array> {
  const request = { prompt: "a photo of a red cat", steps: 3, sampler: "euler-ancestral", ...more } as const;
  return (await pipe.generate(request, { random }))[0]!.float.data;
}

const farthest = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);

/** How far a picture of noise rolled by four latents is from the picture rolled by as many. */
async function unlike(more: Partial<TextToImageRequestInput>, roll: Roll): Promise<number> {
  const pixels = [roll[0] * 2, roll[1] * 2] as const;
  const moved = await draw(more, rolledNoise(7, roll));
  return farthest(moved, rolled(await draw(more, seeded(7)), [24, 24], pixels));
}

test("a picture that tiles along both axes rolls with its noise; one that does not, does not", async () => {
  expect(await unlike({ seamless: "both" }, [4, 6])).toBeLessThan(2e-4);
  expect(await unlike({}, [4, 6])).toBeGreaterThan(0.02);
});

test("along one axis it tiles along that one alone", async () => {
  expect(await unlike({ seamless: "x" }, [0, 6])).toBeLessThan(2e-4);
  expect(await unlike({ seamless: "x" }, [4, 0])).toBeGreaterThan(0.02);
  expect(await unlike({ seamless: "y" }, [4, 0])).toBeLessThan(2e-4);
});

const photo = hostImage(
  24,
  24,
  3,
  Uint8Array.from({ length: 1728 }, (_, i) => (i * i * 31) % 256),
);

function rolledImage(image: HostImage, [down, right]: Roll): HostImage {
  const { width, height, data } = image;
  const moved = new Uint8Array(data.length);
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [((i % width) + right) % width, (Math.floor(i / width) + down) % height];
    moved.set(data.subarray(3 * i, 3 * i + 3), 3 * (y * width + x));
  }
  return hostImage(width, height, 3, moved);
}

test("a picture to start from is encoded, and one to be larger scaled, as if it had no edges", async () => {
  const start = { seamless: "both", image: photo, strength: 0.7 } as const;
  const moved = await draw({ ...start, image: rolledImage(photo, [8, 12]) }, rolledNoise(7, [4, 6]));
  expect(farthest(moved, rolled(await draw(start, seeded(7)), [24, 24], [8, 12]))).toBeLessThan(2e-4);

  const scaled = async (image: HostImage) => resizedSeamless(image, [48, 36], "both");
  const larger = await scaled(rolledImage(photo, [4, 8]));
  expect(larger.data).toEqual(rolledImage(await scaled(photo), [8, 12]).data);
  const plain = resizedSeamless(rolledImage(photo, [4, 8]), [48, 36], undefined);
  expect((await plain).data).not.toEqual(rolledImage(await resizedSeamless(photo, [48, 36], undefined), [8, 12]).data);
});

test.each<[Partial<TextToImageRequestInput>, string, RegExp]>([
  [{ seamless: "x", width: 26 }, "width", /multiples of 4; the width is 26.\nNear is 24 or 28/],
  [{ seamless: "both", height: 2 }, "height", /multiples of 4; the height is 2.\nNear is 4/],
  [{ seamless: "x", vaeTile: 16 }, "seamless", /together with `vaeTile`/],
  [{ seamless: "z" as "x" }, "seamless", /Accepted are x, y, both/],
])("%j is refused", async (more, field, message) => {
  const drawn = pipe.generate({ prompt: "a cat", steps: 1, ...more });
  await expect(drawn).rejects.toMatchObject({ options: { field }, message: expect.stringMatching(message) });
});

test("a side that does not tile may have any size", async () => {
  const [image] = await pipe.generate({ prompt: "a cat", steps: 1, seamless: "x", height: 26 });
  expect(image).toMatchObject({ width: 24, height: 26 });
});
