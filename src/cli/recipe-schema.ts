import { z } from "zod";
import { recipeSchema } from "../train/recipe.ts";

/**
 * The JSON schema of recipe files, which the package publishes as `recipe.schema.json` for editors. Nothing in it is
 * required: flags may give what the file leaves out.
 */
export function recipeJsonSchema(): Record<string, unknown> {
  const { $schema, required: _, properties, ...rest } = z.toJSONSchema(recipeSchema, { io: "input" });
  return {
    $schema,
    title: "Recipe of a training run",
    description: "What `allegory train recipe.json` reads.",
    ...rest,
    properties: { $schema: { type: "string", description: "where this schema lies, for editors" }, ...properties },
  };
}
