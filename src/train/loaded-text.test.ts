import { join } from "node:path";
import { expect, test } from "vitest";
import { float32, type HostTensor, int64 } from "../core/host-tensor.ts";
import { input, parameterLeaf, toOnnx } from "../graph/index.ts";
import { openTokenizer, readModelFolder } from "../io/index.ts";
import { bindTextEmbeddings, bindWeights, clipText } from "../models/index.ts";
import { openSession } from "../runtime/index.ts";
import { loadedText } from "./loaded-text.ts";

const model = "test/fixtures/reference/pipelines/sd15";
const WORD = "<me>";

async function opened() {
  const { config, weights } = await readModelFolder(join(model, "text_encoder"));
  const network = clipText(config);
  const names = [...weights.tensors.keys()];
  const stored = new Map(await Promise.all(names.map(async (name) => [name, await weights.read(name)] as const)));
  return { network, bind: bindWeights(network, stored), tokenizer: await openTokenizer(join(model, "tokenizer")) };
}

test("a word's rows stand in a text where the word does, as they do for who draws with them", async () => {
  const { network, bind, tokenizer } = await opened();
  const { hidden_size: width, vocab_size: vocabulary } = network.config;
  const data = Float32Array.from({ length: 2 * width }, (_, i) => Math.sin(i) / 10);
  const value = float32([2, width], data);
  const rows = parameterLeaf([2, width]);
  const condition = loadedText(network, tokenizer, { maxLength: 12, own: { word: WORD, rows } });
  const captions = [`love ${WORD} good`, `${WORD}`, "good night"];

  const trained = toOnnx(
    { states: condition.states(3).sequence! },
    { bind: (leaf) => (leaf === rows ? { kind: "data", tensor: value } : bind(leaf)) },
  );
  const own = [vocabulary, vocabulary + 1];
  const ids = [
    [...tokenizer.encode("love").slice(0, -1), ...own, ...tokenizer.encode("good").slice(1)],
    [tokenizer.start!, ...own, tokenizer.end],
    tokenizer.encode("good night"),
  ].map((each) => [...each, ...Array<number>(12 - each.length).fill(tokenizer.padding)]);
  const embedding = { token: WORD, vectors: 2, rows: new Map<string, HostTensor>([["text_encoder", value]]) };
  const drawn = toOnnx(
    { states: network(input("ids", [3, 12], "int64")).last },
    { bind: bindTextEmbeddings(network, bind, "text_encoder", [embedding]) },
  );

  const run = async (bytes: Uint8Array, feeds: Record<string, HostTensor>) => {
    const session = await openSession(bytes, { threads: 1 });
    try {
      return (await session.run(feeds)).states!.data as Float32Array;
    } finally {
      await session.close();
    }
  };
  const [inTraining, inDrawing] = [
    await run(trained.bytes, condition.feeds(captions)),
    await run(drawn.bytes, { ids: int64([3, 12], ids.flat()) }),
  ];
  expect(Math.max(...inTraining.map((each, i) => Math.abs(each - inDrawing[i]!)))).toBeLessThan(1e-5);
});

test("a caption that is cut says what of it is not read, the word by its own name", async () => {
  const { network, tokenizer } = await opened();
  const own = { word: WORD, rows: parameterLeaf([1, network.config.hidden_size]) };
  const { warnings } = loadedText(network, tokenizer, { maxLength: 4, own });
  expect(warnings([`good night ${WORD}`])).toEqual([expect.stringContaining(WORD)]);
  expect(warnings([`good ${WORD}`])).toEqual([]);
});
