import { existsSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { pipeline, type TextToImagePipeline, type TextToImageRequestInput } from "../src/pipelines/index.ts";
import { farthest } from "./tiny-models.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
const [both, unetOnly] = ["pytorch_lora_weights", "unet_only_lora_down_up"].map((name) =>
  join(model, "lora", `${name}.safetensors`),
) as [string, string];
const request = { prompt: "a red cat", steps: 2, sampler: "euler", guidance: 3, seed: 5 } as const;

let folder: string;
let plain: TextToImagePipeline;
let switching: TextToImagePipeline;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-switching-"));
  plain = await pipeline("text-to-image", model, { threads: 1 });
  switching = await pipeline("text-to-image", model, { threads: 1, switchableLoras: [both, unetOnly] });
});
afterAll(async () => {
  for (const pipe of [plain, switching]) await pipe.close();
  await rm(folder, { recursive: true });
});

async function difference(more: Partial<TextToImageRequestInput>, other = more): Promise<number> {
  const [[a], [b]] = [
    await switching.generate({ ...request, ...more }),
    await plain.generate({ ...request, ...other }),
  ];
  return farthest(a!.float.data, b!.float.data);
}

describe("LoRAs that can be switched draw what those that are added to the weights draw", () => {
  test.each<[string, Partial<TextToImageRequestInput>]>([
    ["none", {}],
    ["one, of the U-Net and the text encoder", { loras: [both] }],
    ["another scale", { loras: [`${both}:-0.5`] }],
    ["both", { loras: [{ path: both, scale: 0.3 }, `${unetOnly}:0.8`] }],
    ["the other one, cached steps", { loras: [unetOnly], steps: 4, stepCache: 2 }],
    ["without the last layer of the text encoder", { loras: [both], clipSkip: 1 }],
    ["in turn", { loras: [both], guidanceInTurn: true }],
  ])("%s", async (_, more) => {
    expect(await difference(more)).toBeLessThan(2e-4);
  });
});

test("a scale that changes changes the picture, though no network is loaded again and prompts are remembered", async () => {
  expect(await difference({ loras: [both] }, {})).toBeGreaterThan(1e-3);
  expect(await difference({ loras: [`${both}:0.5`] }, { loras: [both] })).toBeGreaterThan(1e-3);
  // Weights that are rounded have their LoRAs beside them, not rounded.
  const rounded = { threads: 1, quantize: 8 } as const;
  const pipe = await pipeline("text-to-image", model, { ...rounded, switchableLoras: [both] });
  const added = await pipeline("text-to-image", model, rounded);
  const [[one], [other]] = [
    await pipe.generate({ ...request, loras: [both] }),
    await added.generate({ ...request, loras: [both] }),
  ];
  expect(farthest(one!.float.data, other!.float.data)).toBeLessThan(0.02);
  for (const each of [pipe, added]) await each.close();
});

test("a plot of LoRAs switches them, and says that one is missing before anything is drawn", async () => {
  const texts = { out: "", err: "" };
  const io = consoleOn({ write: (text) => (texts.out += text) }, { write: (text) => (texts.err += text) });
  const grid = join(folder, "plot.png");
  const plot = (values: string) =>
    run(
      [
        "generate",
        "a cat",
        "--model",
        model,
        "--threads",
        "1",
        "--steps",
        "1",
        "--x",
        `loras=${values}`,
        "--grid",
        grid,
      ],
      io,
    );
  expect(await plot(`${both}:0.2;${both}:1`)).toBe(0);
  expect(existsSync(grid)).toBe(true);
  await rm(grid);
  expect(await plot(`${both};${join(folder, "missing.safetensors")}`)).toBe(2);
  expect(texts.err).toContain("There is no LoRA");
  expect(await readdir(folder)).toEqual([]);
});
