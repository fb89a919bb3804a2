import { describe, expect, it } from "vitest";
import { imageCases } from "./images.ts";

const cases = await imageCases.discover("test/fixtures/reference");

describe("the reference images", () => {
  it("are all there", () => {
    expect(cases.length).toBe(16);
  });

  it.each(cases)("$name agrees", async ({ run }) => {
    for (const comparison of await run()) expect(comparison).toMatchObject({ pass: true });
  });
});

describe("a folder without images", () => {
  it("has no cases", async () => {
    expect(await imageCases.discover("test/fixtures/safetensors")).toEqual([]);
  });
});
