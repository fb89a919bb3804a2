import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parsePromptWeights } from "./prompt-weights.ts";

const read = (prompt: string) =>
  parsePromptWeights(prompt).map(({ text, weight }) => [text, Math.round(weight * 1000) / 1000]);

describe("weights in a prompt", () => {
  test.each<[string, (string | number)[][]]>([
    ["a cat", [["a cat", 1]]],
    ["", [["", 1]]],
    [
      "a (red:1.3) cat",
      [
        ["a ", 1],
        ["red", 1.3],
        [" cat", 1],
      ],
    ],
    [
      "(a) [b] ((c))",
      [
        ["a", 1.1],
        [" ", 1],
        ["b", 0.909],
        [" ", 1],
        ["c", 1.21],
      ],
    ],
    [
      "(a (b:2) c:0.5)",
      [
        ["a ", 0.5],
        ["b", 1],
        [" c", 0.5],
      ],
    ],
    ["\\(literal\\) \\[too\\] \\\\", [["(literal) [too] \\", 1]]],
    [
      "time 12:30, (a: b:1.5)",
      [
        ["time 12:30, ", 1],
        ["a: b", 1.5],
      ],
    ],
    ["()x", [["x", 1]]],
  ])("%j", (prompt, pieces) => {
    expect(read(prompt)).toEqual(pieces);
  });

  test.each([
    ["(a", /The bracket \( at "\(a"/],
    ["a)", /The bracket \)/],
    ["[a)", /The bracket \)/],
    ["a:1.2)", /no partner/],
  ])("%j is refused", (prompt, message) => {
    expect(() => parsePromptWeights(prompt)).toThrow(message);
  });

  test("of escaped text are 1, and the text is as it was", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const escaped = text.replace(/[()[\]\\]/g, "\\$&");
        expect(parsePromptWeights(escaped)).toEqual([{ text, weight: 1 }]);
      }),
    );
  });
});
