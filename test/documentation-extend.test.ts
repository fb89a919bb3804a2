import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { input } from "../src/graph/index.ts";
import { namedParameters } from "../src/nn/module.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

test("the network that docs/extend.md builds works as it says", async () => {
  const page = await readFile(join(root, "docs/extend.md"), "utf8");
  const code = [...page.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map((match) => match[1]).join("\n");
  const source = code.replaceAll('"../', `"${root}src/`).replaceAll('"./', `"${root}src/models/`);
  const folder = await mkdtemp(join(tmpdir(), "allegory-docs-"));
  try {
    const file = join(folder, "small-denoiser.ts");
    // zod is used for types only.
    await writeFile(file, source.replace(/^import type .*zod.*$/m, "type z = never;"));
    const { smallDenoiser } = await import(pathToFileURL(file).href);
    const network = smallDenoiser({ block_out_channels: [16, 16] });
    expect([...namedParameters(network).keys()].slice(2, 6)).toEqual([
      "blocks.0.norm.weight",
      "blocks.0.norm.bias",
      "blocks.0.conv.weight",
      "blocks.0.conv.bias",
    ]);
    expect(network(input("x", [1, 3, 8, 8])).shape).toEqual([1, 3, 8, 8]);
    expect(network.config).toEqual({
      _class_name: "SmallDenoiser",
      in_channels: 3,
      block_out_channels: [16, 16],
      norm_type: "group",
      force_upcast: false,
    });
    expect(() => smallDenoiser({ norm_type: "spatial" })).toThrow(
      /"norm_type" is "spatial"; only "group" is supported/,
    );
  } finally {
    await rm(folder, { recursive: true });
  }
});
