import { expect, test } from "vitest";
import { withNewWords } from "./new-words.ts";
import { openTokenizer } from "./tokenizer.ts";

const tokenizer = await openTokenizer("test/fixtures/reference/pipelines/sd15/tokenizer");
const own = withNewWords(
  tokenizer,
  new Map([
    ["<cat>", [9000, 9001]],
    ["(a|b)", [9002]],
    ["<cat>s", [9003]],
  ]),
);
const [start, end] = [tokenizer.start!, tokenizer.end];
const inner = (text: string) => tokenizer.encode(text).slice(1, -1);

test("a new word is found wherever it is as it is written, the longest of several", () => {
  expect(own.encode("love <cat>, good")).toEqual([start, ...inner("love"), 9000, 9001, ...inner(", good"), end]);
  expect(own.encode("<cat>s<cat>")).toEqual([start, 9003, 9000, 9001, end]);
  expect(own.encode("(a|b) a")).toEqual([start, 9002, ...inner("a"), end]);
  expect(own.encode("<CAT> a b")).toEqual(tokenizer.encode("<CAT> a b"));
  expect(own.words("love <cat> good")).toEqual([...tokenizer.words("love"), ...tokenizer.words("good")]);
});

test("ids become text again, a word of several ids once, also where it is cut", () => {
  expect(own.decode(own.encode("love <cat> <cat> good"))).toBe("love <cat> <cat> good");
  expect(own.decode([9001, ...inner("good")])).toBe("<cat> good");
  expect([own.tokenOf(9001), own.tokenOf(start)]).toEqual(["<cat>", tokenizer.tokenOf(start)]);
  const cut = own.encodePadded("love <cat> good", 2 + inner("love").length + 1);
  expect([cut.ids, cut.dropped]).toEqual([[start, ...inner("love"), 9000, end], "<cat> good"]);
  expect(own.encodePadded("<cat>", 6)).toMatchObject({ ids: [start, 9000, 9001, end, end, end], used: 4, tokens: 4 });
});
