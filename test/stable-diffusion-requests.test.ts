import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pipeline, type TextToImagePipeline, textToImageRequest } from "../src/pipelines/index.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let pipe: TextToImagePipeline;
beforeAll(async () => {
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(() => pipe.close());

const fields = Object.keys(textToImageRequest.shape);

test("1000 requests with a field that makes no sense each give an error that names the field", async () => {
  const nonsense = fc.oneof(
    fc.constantFrom(null, Number.NaN, Number.POSITIVE_INFINITY, -1, -0.5, {}, [], [null], [{}], [-1, -2], "", "\0"),
    fc.object({ maxDepth: 2 }),
    fc.double({ max: -1e-9 }),
    fc.array(fc.constantFrom(null, {}, -3), { minLength: 1 }),
  );
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...fields), nonsense, async (field, value) => {
      // What the schema takes is a request like any other: an empty prompt, a text for a path.
      if (textToImageRequest.safeParse({ prompt: "a cat", [field]: value }).success) return;
      const error = await pipe.generate({ prompt: "a cat", [field]: value } as never).then(
        () => undefined,
        (thrown) => thrown,
      );
      expect(error).toMatchObject({ name: "UserError", options: { field } });
      expect(error.message).toContain(field);
      refused++;
    }),
    { numRuns: 1000, seed: 1 },
  );
  expect(refused).toBeGreaterThan(800);
});

test("fields that there are not are named with the nearest that there is", async () => {
  for (const field of fields.filter((name) => name.length > 4)) {
    const misspelt = field.slice(0, -2) + field.at(-1)! + field.at(-2)!;
    if (fields.includes(misspelt)) continue;
    const wrong = { prompt: "a cat", [misspelt]: 1 };
    await expect(pipe.generate(wrong as never)).rejects.toMatchObject({
      name: "UserError",
      message: expect.stringContaining(`${misspelt}: there is no such field. Did you mean`),
    });
  }
});
