import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { layers } from "./reference/cases/layers.ts";
import { models } from "./reference/cases/models.ts";

// Numbers of diffusers and transformers; fixtures/reference/models holds one case of most classes.
const folder = fileURLToPath(new URL("./fixtures/reference", import.meta.url));

for (const kind of [layers, models]) {
  const cases = await kind.discover(folder);
  const run = new Set<string>();

  describe(`reference ${kind.kind}`, () => {
    for (const each of cases) {
      test(`${each.name} agrees with the reference`, async () => {
        const comparisons = await each.run();
        expect(comparisons.length).toBeGreaterThan(0);
        expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
        run.add(each.name);
      });
    }

    afterAll(() => {
      // A fixture that is not found would otherwise pass unseen.
      expect(run.size).toBe(kind === layers ? 34 : 14);
    });
  });
}

test("a reference set without these folders has no cases", async () => {
  expect(await layers.discover(`${folder}/images`)).toEqual([]);
  expect(await models.discover(`${folder}/images`)).toEqual([]);
});
