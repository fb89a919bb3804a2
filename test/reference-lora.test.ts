import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { loraOutputs } from "./reference/cases/lora.ts";

// Numbers of diffusers and peft, for one scale of each naming; `npm run reference` has all.
const folder = fileURLToPath(new URL("./fixtures/reference", import.meta.url));
const cases = (await loraOutputs.discover(folder)).filter(({ name }) => name.includes("scale0.8"));

test("the fixtures hold three namings, each fused and switchable", () => {
  expect(cases.length).toBe(6);
});

test.each(cases)("$name agrees with the reference", async ({ run }) => {
  const comparisons = await run();
  expect(comparisons.map(({ what }) => what)).toEqual(["unet", "text"]);
  expect(comparisons.filter(({ pass }) => !pass)).toEqual([]);
});
