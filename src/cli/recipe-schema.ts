import { z } from "zod";
import { mainTask, type TrainingTaskKind, trainingTasks } from "./training-tasks.ts";

/**
 * The JSON schema of recipe files, which the package publishes as `recipe.schema.json` for editors: a form for each task.
 * But for the task, nothing in them is required: flags may give what the file leaves out.
 */
export function recipeJsonSchema(): Record<string, unknown> {
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Recipe of a training run",
    description: "What `allegory train recipe.json` reads.",
    anyOf: [mainTask, ...Object.values(trainingTasks)].map(formOf),
  };
}

function formOf({ title, schema }: TrainingTaskKind): Record<string, unknown> {
  const { $schema: _, required: __, properties, ...rest } = z.toJSONSchema(schema, { io: "input" });
  return {
    title: `Recipe of ${title}`,
    ...rest,
    properties: { $schema: { type: "string", description: "where this schema lies, for editors" }, ...properties },
    ...("task" in schema.shape ? { required: ["task"] } : {}),
  };
}
