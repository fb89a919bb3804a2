import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { training } from "./reference/cases/training.ts";

// Numbers of PyTorch: losses, every gradient, and five steps of AdamW with both moving averages.
const folder = fileURLToPath(new URL("./fixtures/reference", import.meta.url));

describe("training agrees with PyTorch", async () => {
  const cases = await training.discover(folder);

  test("for all the networks of the reference set", () => {
    expect(cases.map(({ name }) => name)).toEqual(["training/dit", "training/unet", "training/vae"]);
  });

  test.each(cases)("$name", { timeout: 120_000 }, async ({ run }) => {
    const comparisons = await run();
    // Every parameter's gradient is among them.
    expect(comparisons.length).toBeGreaterThan(100);
    expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
  });
});

test("a reference set without training has no cases", async () => {
  expect(await training.discover(`${folder}/images`)).toEqual([]);
});
