import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pipeline, type UnconditionalPipeline, unconditionalRequest } from "../src/pipelines/index.ts";
import { tinyDit, writeTiny } from "./tiny-models.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

let folder: string;
const pipes = new Map<string, UnconditionalPipeline>();
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-unconditional-requests-"));
  await writeTinyPipeline(join(folder, "unet"), { classes: ["a", "b"], classDropout: true });
  await writeTiny(join(folder, "dit"), tinyDit());
  for (const name of ["unet", "dit"]) pipes.set(name, await pipeline("class-to-image", join(folder, name)));
});
afterAll(async () => {
  for (const pipe of pipes.values()) await pipe.close();
  await rm(folder, { recursive: true });
});

test.each(["unet", "dit"])(
  "200 requests that make no sense each give an error that names the field: %s",
  async (name) => {
    const nonsense = fc.oneof(
      fc.constantFrom(null, Number.NaN, Number.POSITIVE_INFINITY, -1, -0.5, {}, [null], [{}], [-1, -2], "\0"),
      fc.object({ maxDepth: 2 }),
      fc.double({ max: -1e-9 }),
    );
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...Object.keys(unconditionalRequest.shape)), nonsense, async (field, value) => {
        // What the schema takes is a request like any other: a text for a path.
        if (unconditionalRequest.safeParse({ [field]: value }).success) return;
        const error = await pipes
          .get(name)!
          .generate({ [field]: value } as never)
          .then(
            () => undefined,
            (thrown) => thrown,
          );
        expect(error).toMatchObject({ name: "UserError", options: { field } });
        refused++;
      }),
      { numRuns: 300, seed: 1 },
    );
    expect(refused).toBeGreaterThan(200);
  },
);
