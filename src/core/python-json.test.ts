import { expect, test } from "vitest";
import { parsePythonJson, pythonJson } from "./python-json.ts";

test("the bare words of Python are read as numbers, and strings are left alone", () => {
  const text = String.raw`{"a": -Infinity, "b": [Infinity, NaN, 1e-5], "c": "NaN, \"-Infinity\"", "Infinity": null}`;
  expect(parsePythonJson(text)).toEqual({
    a: Number.NEGATIVE_INFINITY,
    b: [Number.POSITIVE_INFINITY, Number.NaN, 1e-5],
    c: 'NaN, "-Infinity"',
    Infinity: null,
  });
});

test("what is written is what Python writes, and is read again", () => {
  const value = { a: Number.NEGATIVE_INFINITY, b: [Number.NaN, 1], c: "-Infinity" };
  expect(pythonJson(value)).toBe('{"a":-Infinity,"b":[NaN,1],"c":"-Infinity"}');
  expect(parsePythonJson(pythonJson(value, 2))).toEqual(value);
});

test("what is no JSON either way is refused for what was given", () => {
  for (const text of ['{"a": -Infinit}', '{"a": Infinity', "{'a': NaN}", "-NaN", "1Infinity"]) {
    expect(() => parsePythonJson(text)).toThrow(SyntaxError);
  }
});
