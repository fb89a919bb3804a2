import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { recipeJsonSchema } from "../src/cli/recipe-schema.ts";
import { mainTask, trainingTasks } from "../src/cli/training-tasks.ts";

const file = fileURLToPath(new URL("../recipe.schema.json", import.meta.url));

interface Form {
  readonly properties: Readonly<Record<string, { readonly description?: string; readonly const?: unknown }>>;
  readonly additionalProperties: boolean;
  readonly required?: readonly string[];
}

const forms = () => (JSON.parse(JSON.stringify(recipeJsonSchema())) as { anyOf: Form[] }).anyOf;

test("recipe.schema.json is what the recipes' schemas say today (after a change: vitest run -u)", async () => {
  await expect(`${JSON.stringify(recipeJsonSchema(), null, 2)}\n`).toMatchFileSnapshot(file);
});

test("the published schema has a form for each task, told apart by it", () => {
  const [main, ...others] = forms();
  expect(main!.properties).not.toHaveProperty("task");
  expect(main!.required).toBeUndefined();
  expect(others.map(({ properties }) => properties.task!.const)).toEqual(Object.keys(trainingTasks));
  for (const { required } of others) expect(required).toEqual(["task"]);
});

test("each form describes every field, allows $schema, and demands and adds nothing else", () => {
  const schemas = [mainTask, ...Object.values(trainingTasks)].map(({ schema }) => schema);
  forms().forEach(({ properties, additionalProperties }, i) => {
    expect(Object.keys(properties).sort()).toEqual(["$schema", ...Object.keys(schemas[i]!.shape)].sort());
    for (const property of Object.values(properties)) expect(property.description).toMatch(/\w{3}/);
    expect(additionalProperties).toBe(false);
  });
  expect(forms()[0]!.properties.batch).toMatchObject({ type: "integer", minimum: 1, default: 64 });
});
