import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { CaseKind } from "./reference/case.ts";
import { process } from "./reference/cases/process.ts";
import { rng } from "./reference/cases/rng.ts";
import { schedulers } from "./reference/cases/schedulers.ts";

const folder = fileURLToPath(new URL("fixtures/reference", import.meta.url));
const expectedCases = new Map<CaseKind, number>([
  [rng, 148],
  [process, 169],
  [schedulers, 98],
]);

describe("the numbers of PyTorch and diffusers are met", async () => {
  for (const [kind, count] of expectedCases) {
    const cases = await kind.discover(folder);

    test(`all cases of ${kind.kind} are found`, () => {
      expect(cases).toHaveLength(count);
    });

    test.each(cases.map((entry) => [entry.name, entry] as const))("%s", async (_, entry) => {
      const comparisons = await entry.run();
      expect(comparisons.length).toBeGreaterThan(0);
      expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
    });
  }
});

test("a folder without cases of a kind has none", async () => {
  for (const kind of expectedCases.keys())
    expect(await kind.discover(fileURLToPath(new URL(".", import.meta.url)))).toEqual([]);
});
