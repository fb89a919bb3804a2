import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { patchDiscriminator } from "../src/models/index.ts";
import { autoencoderRecipeSchema, readAutoencoderRecipe } from "../src/train/index.ts";

const page = await readFile(fileURLToPath(new URL("../docs/autoencoders.md", import.meta.url)), "utf8");

test("the recipes of docs/autoencoders.md are recipes", () => {
  const recipes = [...page.matchAll(/^```json\n([\s\S]*?)^```/gm)].map(([, text]) => JSON.parse(text!));
  expect(recipes.length).toBe(2);
  for (const recipe of recipes) expect(readAutoencoderRecipe(recipe)).toMatchObject(recipe);
});

test("docs/autoencoders.md says the defaults that fields have", () => {
  const base = { task: "autoencoder", data: "x", run: "x" };
  const said = [...page.matchAll(/`(\w+)` \((\d[\d.]*)\)/g)].map(([, field, value]) => [field, Number(value)] as const);
  expect(said.map(([field]) => field)).toContain("commitment");
  const complete = {
    ...readAutoencoderRecipe({ ...base, perceptual: "x", adversarialFrom: 1 }),
    ...readAutoencoderRecipe({ ...base, kind: "vq" }),
  };
  for (const [field, value] of said) expect([field, complete[field as keyof typeof complete]]).toEqual([field, value]);
  expect(Object.keys(autoencoderRecipeSchema.shape)).toEqual(expect.arrayContaining(said.map(([field]) => field)));
});

test("patches of a discriminator have as many pixels as docs/autoencoders.md says", () => {
  // A convolution of 4 pixels sees 4 + (n − 1)·stride of what lies before it for n of its own.
  const patchOf = (levels: number) =>
    Array.from({ length: levels + 2 }, (_, i) => (i < levels ? 2 : 1)).reduceRight<number>(
      (n, stride) => 4 + (n - 1) * stride,
      1,
    );
  const { blocks } = patchDiscriminator({ channels: 3, width: 4, levels: 3 }).parts;
  expect(blocks.length + 2).toBe(3 + 2);
  expect(page).toContain(`a patch has\n  ${patchOf(1)}, ${patchOf(2)} or ${patchOf(3)} pixels with 1, 2 or 3 levels`);
});
