import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { input } from "../src/graph/index.ts";
import { namedParameters } from "../src/nn/module.ts";
import { DENOISERS, diffusionLoss, timestepsInput } from "../src/train/index.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

test("the code of docs/objectives-and-words.md makes what the page says, one block after the other", async () => {
  const page = await readFile(join(root, "docs/objectives-and-words.md"), "utf8");
  const code = [...page.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1]).join("\n");
  const folder = await mkdtemp(join(tmpdir(), "allegory-docs-"));
  try {
    const file = join(folder, "latent-diffusion.ts");
    await writeFile(file, code.replaceAll('"../src/', `"${root}src/`));
    const made = await import(pathToFileURL(file).href);
    expect(made.timesteps.data.every((t: number) => t > 0 && t < 1000)).toBe(true);
    expect(made.noise.shape).toEqual([8, 4, 8, 8]);
    // Start, two words that the captions have often enough, end.
    expect(made.tokens).toHaveLength(4);
    expect(made.vocabulary.tokens.length).toBeLessThanOrEqual(600);
    const parts = new Set([...namedParameters(made.network).keys()].map((name) => name.split(".")[0]));
    expect([...parts]).toEqual(["text_encoder", "unet"]);
    const states = made.condition.states(8);
    const loss = diffusionLoss((x, t) => made.denoiser.call(x, t, states), made.objective, {
      x0: input("x0", [8, 4, 8, 8]),
      noise: input("noise", made.noise.shape),
      timesteps: timestepsInput(made.objective, 8),
    });
    expect(loss.shape).toEqual([]);
    const tables = [...page.matchAll(/^\| `(\w+)` \|/gm)].map((match) => match[1]);
    expect(tables).toEqual(["predict", "noise", "x0", "v", "flow", ...Object.keys(DENOISERS)]);
  } finally {
    await rm(folder, { recursive: true });
  }
});
