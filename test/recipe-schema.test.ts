import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { recipeJsonSchema } from "../src/cli/recipe-schema.ts";
import { recipeSchema } from "../src/train/recipe.ts";

const file = fileURLToPath(new URL("../recipe.schema.json", import.meta.url));

test("recipe.schema.json is what the recipe's schema says today (after a change: vitest run -u)", async () => {
  await expect(`${JSON.stringify(recipeJsonSchema(), null, 2)}\n`).toMatchFileSnapshot(file);
});

test("the published schema describes every field, allows $schema, and demands and adds nothing", () => {
  const schema = JSON.parse(JSON.stringify(recipeJsonSchema()));
  expect(Object.keys(schema.properties).sort()).toEqual(["$schema", ...Object.keys(recipeSchema.shape)].sort());
  for (const property of Object.values<{ description?: string }>(schema.properties)) {
    expect(property.description).toMatch(/\w{3}/);
  }
  expect(schema.additionalProperties).toBe(false);
  expect(schema.required).toBeUndefined();
  expect(schema.properties.batch).toMatchObject({ type: "integer", minimum: 1, default: 64 });
});
