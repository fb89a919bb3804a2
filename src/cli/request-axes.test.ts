import { expect, test } from "vitest";
import { plotPlaces, readAxis } from "./request-axes.ts";

const valuesOf = (text: string) => readAxis(text, "x").values.map(({ value }) => value);

test("an axis is a field and its values, as the field takes them", () => {
  expect(readAxis("steps=10, 20,30", "x")).toEqual({
    field: "steps",
    values: [10, 20, 30].map((value) => ({ label: `steps ${value}`, value })),
  });
  expect(valuesOf("guidance-rescale=0,0.5")).toEqual([0, 0.5]);
  expect(readAxis("--guidance-rescale=0", "y").field).toBe("guidanceRescale");
  expect(valuesOf("sampler=euler,dpm++2m")).toEqual(["euler", "dpm++2m"]);
  expect(valuesOf("weights=yes,off")).toEqual([true, false]);
  expect(valuesOf("prompt=a cat, sitting; a dog")).toEqual(["a cat, sitting", "a dog"]);
  expect(valuesOf("prompt=a=b")).toEqual(["a=b"]);
  expect(valuesOf("guidanceInterval=0,20;1,5.5")).toEqual([
    [0, 20],
    [1, 5.5],
  ]);
  expect(valuesOf("loras=style.safetensors:0.5;style.safetensors:1,other.safetensors")).toEqual([
    ["style.safetensors:0.5"],
    ["style.safetensors:1", "other.safetensors"],
  ]);
  // What a field does not take is left as it was written, for the schema to name.
  expect(valuesOf("steps=ten,")).toEqual(["ten", ""]);
  expect(readAxis("negativePrompt=,blurry", "x").values[0]).toEqual({ label: "negativePrompt (empty)", value: "" });
  expect(readAxis(`prompt=${"long ".repeat(30)}`, "x").values[0]!.label).toMatch(/^prompt long .{35}…$/);
});

test("what is no axis is refused with what is", () => {
  expect(() => readAxis("steps", "x")).toThrow(
    '--x is "steps"; a field and its values are needed.\nFor example --x steps=10,20,30.',
  );
  expect(() => readAxis("stesp=3", "y")).toThrow("There is no field stesp.\nDid you mean steps?");
  expect(() => readAxis("nonsense=3", "y")).toThrow("There are prompt, negativePrompt,");
});

test("places are requests with each pair of values, row by row", () => {
  const axes = { x: readAxis("steps=1,2", "x"), y: readAxis("seed=7,8", "y") };
  const places = plotPlaces({ prompt: "a cat", seeds: [3], steps: 50 }, axes);
  expect(places.map(({ row, column, request }) => [row, column, request])).toEqual([
    [0, 0, { prompt: "a cat", steps: 1, seed: 7 }],
    [0, 1, { prompt: "a cat", steps: 2, seed: 7 }],
    [1, 0, { prompt: "a cat", steps: 1, seed: 8 }],
    [1, 1, { prompt: "a cat", steps: 2, seed: 8 }],
  ]);
  expect(plotPlaces({ prompt: "a cat", seeds: [3] }, { y: axes.x }).map(({ request }) => request)).toEqual([
    { prompt: "a cat", seeds: [3], steps: 1 },
    { prompt: "a cat", seeds: [3], steps: 2 },
  ]);
  expect(() => plotPlaces({}, { x: axes.x, y: axes.x })).toThrow("Both axes are steps.");
});
