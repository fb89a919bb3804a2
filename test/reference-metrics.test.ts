import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { metrics } from "./reference/cases/metrics.ts";

const folder = fileURLToPath(new URL("fixtures/reference", import.meta.url));

describe("the distances of SciPy are met", async () => {
  const cases = await metrics.discover(folder);

  test("all cases are found", () => expect(cases).toHaveLength(7));

  test.each(cases.map((entry) => [entry.name, entry] as const))("%s", async (_, entry) => {
    const comparisons = await entry.run();
    expect(comparisons.length).toBeGreaterThan(0);
    expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
  });
});
