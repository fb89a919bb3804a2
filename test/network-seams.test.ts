import { expect, test } from "vitest";
import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { graphCost, input, type Tensor, toOnnx } from "../src/graph/index.ts";
import { autoencoderKL, autoencoderTiny, bindWeights, unet2dCondition, type Weighted } from "../src/models/index.ts";
import { type CircularAxes, withCircularPadding, withScoreLimit } from "../src/nn/index.ts";
import { openSession } from "../src/runtime/index.ts";
import { randomWeights } from "./original-files.ts";

// What pipelines ask of networks beside their output: that edges meet, what attention looks at, and states on the way.

type Numbers = HostTensor<"float32">;

type Feeds = Readonly<Record<string, HostTensor>>;

/** What a graph gives for each of several inputs. */
async function runs<Names extends string>(
  network: Weighted,
  outputs: Readonly<Record<Names, Tensor>>,
  all: readonly Feeds[],
): Promise<Record<Names, Numbers>[]> {
  const bind = bindWeights(network, randomWeights(network, 1));
  const session = await openSession(toOnnx(outputs, { bind }).bytes, { threads: 1 });
  try {
    return (await Promise.all(all.map((feeds) => session.run(feeds)))) as Record<Names, Numbers>[];
  } finally {
    await session.close();
  }
}

async function run<Names extends string>(
  network: Weighted,
  outputs: Readonly<Record<Names, Tensor>>,
  feeds: Feeds,
): Promise<Record<Names, Numbers>> {
  return (await runs(network, outputs, [feeds]))[0]!;
}

const draw = (shape: readonly number[], seed: number) => seeded(seed).normal(shape);
const farthest = (a: Numbers, b: Numbers) => {
  expect(a.shape).toEqual(b.shape);
  return a.data.reduce((most, x, i) => Math.max(most, Math.abs(x - b.data[i]!)), 0);
};

/** An image [n, c, h, w] moved down and to the right; what leaves it comes in at the other side. */
function rolled({ shape, data }: Numbers, [down, right]: readonly [number, number]): Numbers {
  const [h, w] = shape.slice(2) as [number, number];
  const moved = new Float32Array(data.length);
  data.forEach((value, i) => {
    const [plane, y, x] = [Math.floor(i / (h * w)), Math.floor(i / w) % h, i % w];
    moved[(plane * h + ((y + down) % h)) * w + ((x + right) % w)] = value;
  });
  return float32(shape, moved);
}

const unet = unet2dCondition({
  block_out_channels: [8, 12],
  down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D"],
  layers_per_block: 2,
  norm_num_groups: 4,
  cross_attention_dim: 10,
  attention_head_dim: 2,
});
const twoLevels = {
  block_out_channels: [8, 12],
  norm_num_groups: 4,
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D"],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D"],
};
const vae = autoencoderKL(twoLevels);
const tiny = autoencoderTiny({
  encoder_block_out_channels: [6, 6],
  decoder_block_out_channels: [6, 6],
  num_encoder_blocks: [1, 1],
  num_decoder_blocks: [1, 1],
});

const feeds = { t: float32([2], [321, 321]), text: draw([2, 5, 10], 2) };
const given = () => ({ x: input("x", [2, 4, 8, 6]), t: input("t", [2]), text: input("text", [2, 5, 10]) });

interface Rolling {
  readonly x: Numbers;
  readonly roll: readonly [number, number];
  readonly others?: Feeds;
}

/** How far what a rolled input gives is from the rolled output, along each axis. */
async function rolls(
  network: Weighted,
  build: (x: Tensor) => Tensor,
  axes: CircularAxes,
  { x, roll: [down, right], others }: Rolling,
): Promise<{ readonly down: number; readonly right: number }> {
  const graph = { y: withCircularPadding(axes, () => build(input("x", x.shape))) };
  const all = [x, rolled(x, [down, 0]), rolled(x, [0, right])].map((each) => ({ ...others, x: each }));
  const [plain, moved, shifted] = await runs(network, graph, all);
  const scale = plain!.y.shape[2]! / x.shape[2]!;
  return {
    down: farthest(moved!.y, rolled(plain!.y, [down * scale, 0])),
    right: farthest(shifted!.y, rolled(plain!.y, [0, right * scale])),
  };
}

const networks: readonly (readonly [string, Weighted, (x: Tensor) => Tensor, Rolling])[] = [
  [
    "the U-Net",
    unet,
    (x) => unet(x, given().t, given().text),
    { x: draw([2, 4, 8, 6], 1), roll: [2, 4], others: feeds },
  ],
  ["the decoder", vae, vae.decode, { x: draw([1, 4, 5, 6], 1), roll: [3, 1] }],
  ["the encoder", vae, vae.encode, { x: draw([1, 3, 8, 6], 1), roll: [2, 4] }],
  ["the small decoder", tiny, tiny.decode, { x: draw([1, 4, 5, 6], 1), roll: [3, 1] }],
  ["the small encoder", tiny, tiny.encode, { x: draw([1, 3, 8, 6], 1), roll: [2, 4] }],
];

test.each(networks)("with circular padding %s rolls with its input, along the axes that meet", async (...words) => {
  const [, network, build, options] = words;
  const after = (axes: CircularAxes) => rolls(network, build, axes, options);
  const [none, x, both] = [
    await after({ x: false, y: false }),
    await after({ x: true, y: false }),
    await after({ x: true, y: true }),
  ];
  expect(Math.min(none.down, none.right, x.down)).toBeGreaterThan(1e-2);
  expect(Math.max(x.right, both.down, both.right)).toBeLessThan(1e-4);
});

test("weights of the attention to the text are shares of each pixel, and cost nothing where nobody asks", async () => {
  const { x, t, text } = given();
  const plain = unet(x, t, text);
  const seen: Tensor[] = [];
  const watched = unet(x, t, text, { onCrossAttention: (weights) => void seen.push(weights) });
  // Two layers on the way down, one in the middle, three on the way up; the middle is half as high and wide.
  expect(seen.map(({ shape }) => shape.join("×"))).toEqual([
    ...Array(2).fill("2×2×8×6×5"),
    "2×2×4×3×5",
    ...Array(3).fill("2×2×8×6×5"),
  ]);
  const bind = bindWeights(unet, randomWeights(unet, 1));
  const written = (y: Tensor) => Buffer.from(toOnnx({ y }, { bind }).bytes);
  expect(written(watched).equals(written(plain))).toBe(true);
  const outputs = Object.fromEntries([["y", watched], ...seen.map((weights, i) => [`${i}`, weights] as const)]);
  const all = { ...feeds, x: draw([2, 4, 8, 6], 1) };
  const { y, ...weights } = await run(unet, outputs, all);
  for (const { data } of Object.values(weights)) {
    for (let i = 0; i < data.length; i += 5) expect(data.subarray(i, i + 5).reduce((a, b) => a + b)).toBeCloseTo(1, 5);
  }
  // The same in pieces, and with the picture unchanged.
  const pieces: Tensor[] = [];
  const cut = withScoreLimit(500, () => unet(x, t, text, { onCrossAttention: (weights) => void pieces.push(weights) }));
  const inPieces = await run(unet, { y: cut, first: pieces[0]! }, all);
  expect(farthest(inPieces.first, weights[0]!)).toBeLessThan(1e-5);
  expect(farthest(inPieces.y, y!)).toBeLessThan(1e-4);
});

test("a state of the way up that is put back gives the same output, without what lies below it", async () => {
  const { x, t, text } = given();
  expect(unet.skips).toBe(6);
  const flops = [graphCost([unet(x, t, text)]).flops];
  for (const depth of [5, 3, 1]) {
    let deep: Tensor | undefined;
    const output = unet(x, t, text, {
      onWayUp(h, left) {
        if (left === depth) deep = h;
        return h;
      },
    });
    const all = { ...feeds, x: draw([2, 4, 8, 6], 1) };
    const full = await run(unet, { output, deep: deep! }, all);
    const shallow = unet(x, t, text, { onWayUp: (h, left) => (left === depth ? input("deep", h.shape) : h) });
    const [again, other] = await runs(unet, { output: shallow }, [
      { ...all, deep: full.deep },
      { ...all, x: draw([2, 4, 8, 6], 9), deep: full.deep },
    ]);
    expect(farthest(again!.output, full.output)).toBeLessThan(1e-5);
    // Of other latents with the same deep state, the output is another: the shallow layers look at them.
    expect(farthest(other!.output, full.output)).toBeGreaterThan(1e-2);
    flops.push(graphCost([shallow]).flops);
  }
  for (const [i, more] of flops.slice(0, -1).entries()) expect(flops[i + 1]!).toBeLessThan(more);
});
