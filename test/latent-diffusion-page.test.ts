import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { readTextToImageRecipe } from "../src/train/text-to-image-recipe.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

test("the chapter on latent diffusion shows pictures and pages that are there", async () => {
  const page = await readFile(`${root}docs/latent-diffusion.md`, "utf8");
  const links = [...page.matchAll(/\]\((?!https?:)([^)#]+)/g)].map((match) => match[1]!);
  expect(links.length).toBeGreaterThan(8);
  for (const link of links) expect(existsSync(new URL(link, `file://${root}docs/`)), link).toBe(true);
});

test("the recipe of the chapter's model, and the one in its code, can be trained", async () => {
  const { $schema: _, ...recipe } = JSON.parse(await readFile(`${root}recipes/emoji.json`, "utf8"));
  expect(readTextToImageRecipe(recipe)).toMatchObject({ task: "text-to-image", size: 64 });
  const page = await readFile(`${root}docs/latent-diffusion.md`, "utf8");
  const [, given] = /trainTextToImage\((\{[\s\S]*?\n\})\)/.exec(page)!;
  const own = new Function(`return ${given}`)() as unknown;
  expect(readTextToImageRecipe(own)).toMatchObject({ run: "runs/mine", denoiser: { channels: [128, 256] } });
});
