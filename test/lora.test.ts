import { expect, test } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32, type HostTensor, int64 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { input, type Tensor, toOnnx } from "../src/graph/index.ts";
import { convertFloat } from "../src/io/index.ts";
import {
  type Bind,
  bindRounded,
  bindTextEmbeddings,
  bindWeights,
  clipText,
  embeddingIds,
  lora,
  readAdapter,
  readTextEmbedding,
  unet2dCondition,
} from "../src/models/index.ts";
import { namedParameters } from "../src/nn/module.ts";
import { inferenceTarget, openSession } from "../src/runtime/index.ts";
import { originalUNet, randomWeights } from "./original-files.ts";

const unetConfig = {
  block_out_channels: [8, 16],
  down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D"],
  layers_per_block: 1,
  norm_num_groups: 4,
  cross_attention_dim: 12,
  attention_head_dim: 2,
};
const textConfig = {
  vocab_size: 20,
  hidden_size: 12,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 8,
  eos_token_id: 19,
};

const unet = () => unet2dCondition(unetConfig);
const weights = randomWeights(unet(), 1);
const random = seeded(2);
const feeds = { x: random.normal([1, 4, 6, 6]), t: float32([1], [300]), text: random.normal([1, 3, 12]) };

/** What the U-Net gives with these weights (its own, or changed by hand). */
async function run(
  options: {
    values?: ReadonlyMap<string, HostTensor>;
    change?: (network: ReturnType<typeof unet>, bind: Bind) => Bind;
    build?: (network: ReturnType<typeof unet>, build: () => Tensor) => Tensor;
    more?: Record<string, HostTensor>;
  } = {},
): Promise<Float32Array> {
  const network = unet();
  const given = (name: keyof typeof feeds) => input(name, feeds[name].shape);
  const call = () => network(given("x"), given("t"), given("text"));
  const y = options.build?.(network, call) ?? call();
  const own = bindWeights(network, options.values ?? weights);
  const bind = options.change?.(network, own) ?? own;
  const session = await openSession(toOnnx({ y }, { bind, target: inferenceTarget() }).bytes, { threads: 1 });
  try {
    return (await session.run({ ...feeds, ...options.more })).y!.data as Float32Array;
  } finally {
    await session.close();
  }
}

const largest = (a: Float32Array, b: Float32Array) => a.reduce((max, x, i) => Math.max(max, Math.abs(x - b[i]!)), 0);

/** An update of some layers: down and up in float32, by layer. */
function updates(layers: readonly string[], rank: number) {
  const parameters = namedParameters(unet());
  return layers.map((layer) => {
    const [outputs, inputs, ...kernel] = parameters.get(`${layer}.weight`)!.shape as [number, number, ...number[]];
    return {
      layer,
      down: random.normal([rank, inputs, ...kernel], { std: 0.3 }),
      up: random.normal([outputs, rank, ...kernel.map(() => 1)], { std: 0.3 }),
    };
  });
}

/** The weights with `factor`·up·down added, by plain loops. */
function changed(from: ReadonlyMap<string, HostTensor>, list: ReturnType<typeof updates>, factor: number) {
  const result = new Map(from);
  for (const { layer, down, up } of list) {
    const old = result.get(`${layer}.weight`) as HostTensor<"float32">;
    const rank = down.shape[0]!;
    const columns = down.data.length / rank;
    const data = old.data.map((value, i) => {
      let sum = 0;
      for (let r = 0; r < rank; r++) {
        sum += up.data[Math.floor(i / columns) * rank + r]! * down.data[r * columns + (i % columns)]!;
      }
      return value + factor * sum;
    });
    result.set(`${layer}.weight`, { ...old, data });
  }
  return result;
}

const attention = "down_blocks.0.attentions.0.transformer_blocks.0";
const ATTENTION = [`${attention}.attn1.to_q`, `${attention}.attn2.to_v`, `${attention}.attn1.to_out.0`];
const CONVOLUTIONS = [
  "down_blocks.0.resnets.0.conv1",
  "down_blocks.0.downsamplers.0.conv",
  "mid_block.attentions.0.proj_in",
];

test("several adapters at once, each with its scale, fused and switchable, are the weights changed by hand", async () => {
  const first = updates([...ATTENTION, ...CONVOLUTIONS], 3);
  const second = updates([ATTENTION[0]!, CONVOLUTIONS[0]!], 2);
  const adapters = [
    readAdapter(
      new Map(
        first.flatMap(({ layer, down, up }) => [
          [`unet.${layer}.lora_A.weight`, down],
          [`unet.${layer}.lora_B.weight`, up],
        ]),
      ),
      { name: "first" },
    ),
    readAdapter(
      new Map<string, HostTensor>(
        second.flatMap(({ layer, down, up }): [string, HostTensor][] => {
          const joined = `lora_unet_${layer.replaceAll(".", "_")}`;
          return [
            [`${joined}.lora_down.weight`, down],
            [`${joined}.lora_up.weight`, up],
            [`${joined}.alpha`, float32([], [5])],
          ];
        }),
      ),
      { name: "second" },
    ),
  ];
  const [a, b] = adapters;
  const applied = (one: number, two: number) =>
    lora({ unet: unet() }, [
      { adapter: a!, scale: one },
      { adapter: b!, scale: two },
    ]);
  const plain = await run();
  const expected = await run({ values: changed(changed(weights, first, 0.8), second, (-0.6 * 5) / 2) });
  expect(largest(plain, expected)).toBeGreaterThan(0.05);
  const both = applied(0.8, -0.6);
  expect(both.count("unet")).toBe(6);
  expect(both.scales("unet")).toEqual({ "lora.first": 0.8, "lora.second": -0.6 });
  const fused = await run({ change: (network, bind) => both.fuse("unet", network, bind) });
  expect(largest(fused, expected)).toBeLessThan(1e-5);

  // Rounded afterwards, as the changed weights by hand are, not before.
  const rounded = (network: ReturnType<typeof unet>, bind: Bind) =>
    bindRounded(network, bind, [...ATTENTION.map((layer) => `${layer}.weight`)], { bits: 8, blockSize: 16 });
  const roundedByHand = await run({
    values: changed(changed(weights, first, 0.8), second, (-0.6 * 5) / 2),
    change: rounded,
  });
  const roundedFused = await run({ change: (network, bind) => rounded(network, both.fuse("unet", network, bind)) });
  expect(largest(roundedFused, roundedByHand)).toBeLessThan(1e-4);
  expect(largest(roundedByHand, expected)).toBeGreaterThan(1e-4);

  const switchable = (one: number, two: number) =>
    run({
      build: (network, build) => both.branch("unet", network, build),
      more: { "lora.first": float32([], [one]), "lora.second": float32([], [two]) },
    });
  expect(largest(await switchable(0.8, -0.6), expected)).toBeLessThan(1e-5);
  expect(largest(await switchable(0, 0), plain)).toBeLessThan(1e-5);
});

test("all names of the same layers mean the same: PEFT with an adapter's name, old attention processors, kohya for XL", async () => {
  const list = updates(ATTENTION, 2);
  const expected = await run({ values: changed(weights, list, 1) });
  // kohya's trainer names XL's layers as the original checkpoint does.
  const identity = new Map([...weights].map(([name, tensor]) => [name, { ...tensor, name }]));
  const original = new Map(
    [...originalUNet(identity, unetConfig)].map(([name, tensor]) => [
      (tensor as unknown as { name: string }).name,
      name,
    ]),
  );
  const xl = (layer: string) =>
    original
      .get(`${layer}.weight`)!
      .replace(/\.weight$/, "")
      .replaceAll(".", "_");
  expect(xl(ATTENTION[0]!)).toBe("input_blocks_1_1_transformer_blocks_0_attn1_to_q");
  const processor = (layer: string) => layer.replace(/\.(to_\w+)(\.0)?$/, ".processor.$1_lora");
  const namings: [string, (layer: string) => [string, string]][] = [
    [
      "adapter's name",
      (x) => [`base_model.model.${x}.lora_A.default.weight`, `base_model.model.${x}.lora_B.default.weight`],
    ],
    ["processors", (x) => [`${processor(x)}.down.weight`, `${processor(x)}.up.weight`]],
    ["linear layers", (x) => [`unet.${x}.lora_linear_layer.down.weight`, `unet.${x}.lora_linear_layer.up.weight`]],
    ["XL", (x) => [`lora_unet_${xl(x)}.lora_down.weight`, `lora_unet_${xl(x)}.lora_up.weight`]],
  ];
  for (const [name, naming] of namings) {
    const tensors = new Map(
      list.flatMap(({ layer, down, up }) => [
        [naming(layer)[0], down],
        [naming(layer)[1], up],
      ]),
    ) as Map<string, HostTensor>;
    const applied = lora({ unet: unet() }, [{ adapter: readAdapter(tensors, { name }), scale: 1 }]);
    const found = await run({ change: (network, bind) => applied.fuse("unet", network, bind) });
    expect(largest(found, expected), name).toBeLessThan(1e-5);
  }
});

test("alpha stands in the file's metadata too, also for some layers only, and half-precision files are read", async () => {
  const list = updates(ATTENTION.slice(0, 2), 4);
  const tensors = new Map<string, HostTensor>(
    list.flatMap(({ layer, down, up }): [string, HostTensor][] => [
      [`unet.${layer}.lora_A.weight`, convertFloat(down, "float16")],
      [`unet.${layer}.lora_B.weight`, convertFloat(up, "bfloat16")],
    ]),
  );
  const rounded = list.map(({ layer, down, up }) => ({
    layer,
    down: convertFloat(convertFloat(down, "float16"), "float32"),
    up: convertFloat(convertFloat(up, "bfloat16"), "float32"),
  }));
  const notes = { "unet.lora_alpha": 2, "unet.r": 4, "unet.alpha_pattern": { "attn2.to_v": 12 } };
  const adapter = readAdapter(tensors, { name: "x", metadata: { lora_adapter_metadata: JSON.stringify(notes) } });
  const applied = lora({ unet: unet() }, [{ adapter, scale: 1 }]);
  const found = await run({ change: (network, bind) => applied.fuse("unet", network, bind) });
  const values = changed(changed(weights, rounded.slice(0, 1), 0.5), rounded.slice(1), 3);
  expect(largest(found, await run({ values }))).toBeLessThan(1e-5);
});

function messageOf(build: () => unknown): string {
  try {
    build();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as Error).message;
  }
  throw new Error("nothing was thrown");
}

test("layers that match nothing, or have another shape, are listed in one error", () => {
  const down = random.normal([2, 8]);
  const up = random.normal([8, 2]);
  const pair = (name: string, b = up): [string, HostTensor][] => [
    [`${name}.lora_A.weight`, down],
    [`${name}.lora_B.weight`, b],
  ];
  const adapter = readAdapter(
    new Map([
      ...pair(`unet.${ATTENTION[0]}`),
      ...pair("unet.nowhere.to_q"),
      ...pair("text_encoder.text_model.encoder.layers.0.self_attn.q_proj"),
      ...pair(`unet.${ATTENTION[2]}`, random.normal([9, 2])),
    ]),
    { name: "wrong" },
  );
  const message = messageOf(() => lora({ unet: unet() }, [{ adapter, scale: 1 }]));
  expect(message).toContain("2 of its layers are in none of unet:\n  unet.nowhere.to_q\n  text_encoder.text_model");
  expect(message).toContain(
    `1 of its layers are of another shape:\n  unet.${ATTENTION[2]}: [9, 2] · [2, 8] for a weight [8, 8]`,
  );
  const fitting = readAdapter(new Map(pair(`unet.${ATTENTION[0]}`)), { name: "a" });
  expect(
    messageOf(() =>
      lora({ unet: unet() }, [
        { adapter: fitting, scale: 1 },
        { adapter: fitting, scale: 2 },
      ]),
    ),
  ).toContain("Two adapters are called a");
});

test("files that are no LoRA, incomplete ones and other kinds of adapters are refused by name", () => {
  const x = random.normal([2, 2]);
  const refusal = (names: readonly string[]) =>
    messageOf(() => readAdapter(new Map(names.map((name) => [name, x])), { name: "file" }));
  expect(refusal(["conv.weight"])).toContain("is no LoRA");
  expect(refusal(["a.lora_A.weight", "a.lora_B.weight", "b.lora_A.weight", "c.bias"])).toMatch(
    /1 names are no part of a LoRA:\n {2}c.bias\n1 layers are not complete:\n {2}b \(no up\)/,
  );
  expect(refusal(["lora_unet_a.hada_w1_a"])).toContain("LoHa");
  expect(refusal(["a.lora_A.weight", "a.lora_B.weight", "a.lora_magnitude_vector"])).toContain("DoRA");
  expect(refusal(["lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"])).toContain(
    "is not a single number",
  );
});

test("words of one's own are rows after the token table", async () => {
  const embeddings = [
    readTextEmbedding(new Map([["<cat>", random.normal([2, 12])]]), { name: "cat" }),
    readTextEmbedding(new Map([["emb_params", convertFloat(random.normal([1, 12]), "float16")]]), { name: "dog" }),
  ];
  expect(embeddings.map(({ token, vectors }) => [token, vectors])).toEqual([
    ["<cat>", 2],
    ["dog", 1],
  ]);
  const ids = embeddingIds(embeddings, 20);
  expect(Object.fromEntries(ids)).toEqual({ "<cat>": [20, 21], dog: [22] });

  const values = randomWeights(clipText(textConfig), 4);
  const table = values.get("text_model.embeddings.token_embedding.weight")!;
  const added = embeddings.map(({ rows }) =>
    convertFloat(rows.get("text_encoder") as HostTensor<"float32">, "float32"),
  );
  const whole = new Float32Array(23 * 12);
  whole.set(table.data);
  whole.set(added[0]!.data, 20 * 12);
  whole.set(added[1]!.data, 22 * 12);
  const tokens = int64([1, 6], [3, 20, 21, 22, 5, 19]);

  const encode = async (vocabulary: number, change: (network: ReturnType<typeof clipText>) => Bind) => {
    const network = clipText({ ...textConfig, vocab_size: vocabulary });
    const { last, pooled } = network(input("ids", [1, 6], "int64"));
    const model = toOnnx({ last, pooled }, { bind: change(network), target: inferenceTarget() });
    const session = await openSession(model.bytes, { threads: 1 });
    try {
      return await session.run({ ids: tokens });
    } finally {
      await session.close();
    }
  };
  const found = await encode(20, (network) =>
    bindTextEmbeddings(network, bindWeights(network, values), "text_encoder", embeddings),
  );
  const longer = new Map(values).set("text_model.embeddings.token_embedding.weight", float32([23, 12], whole));
  expect(found).toEqual(await encode(23, (network) => bindWeights(network, longer)));
});

test("embeddings for other encoders, of other widths and other files are refused", () => {
  const network = clipText(textConfig);
  const bind = bindWeights(network, randomWeights(network, 4));
  const wide = readTextEmbedding(new Map([["emb_params", random.normal([1, 16])]]), { name: "wide" });
  expect(messageOf(() => bindTextEmbeddings(network, bind, "text_encoder", [wide]))).toContain(
    "16 wide, the text_encoder 12",
  );
  const xl = readTextEmbedding(
    new Map([
      ["clip_l", random.normal([2, 12])],
      ["clip_g", random.normal([2, 16])],
    ]),
    { name: "xl", token: "<xl>" },
  );
  expect([...xl.rows.keys()]).toEqual(["text_encoder", "text_encoder_2"]);
  expect(messageOf(() => bindTextEmbeddings(network, bind, "text_encoder_2", [wide]))).toContain(
    "has nothing for the text_encoder_2",
  );
  expect(messageOf(() => readTextEmbedding(new Map([["a", random.normal([2, 2, 2])]]), { name: "x" }))).toContain(
    "no textual-inversion",
  );
  expect(
    messageOf(() =>
      readTextEmbedding(
        new Map([
          ["clip_l", random.normal([2, 2])],
          ["clip_g", random.normal([3, 2])],
        ]),
        { name: "x" },
      ),
    ),
  ).toContain("2 and 3 vectors");
  expect(messageOf(() => embeddingIds([wide, wide], 20))).toContain("Two embeddings are for the word wide");
});
