import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { decodeImage, hostImage } from "../src/io/index.ts";
import { pipeline, type TextToImagePipeline, type TextToImageRequestInput } from "../src/pipelines/index.ts";
import { longestTurn } from "./event-loop.ts";

const model = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
let folder: string;
let pipe: TextToImagePipeline;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-stopping-"));
  pipe = await pipeline("text-to-image", model, { threads: 1 });
});
afterAll(async () => {
  await pipe.close();
  await rm(folder, { recursive: true });
});

const request = { prompt: "a photo of a red cat", steps: 3, sampler: "euler" } as const;
const image = hostImage(24, 24, 3, new Uint8Array(1728).fill(90));

/** The next step of a run that has begun and not ended: steps of a tiny model may be over before one can look. */
async function unfinished<T>(run: AsyncGenerator<T>): Promise<{ readonly step: Promise<unknown> }> {
  for (;;) {
    let ended = false;
    const step = run.next().finally(() => (ended = true));
    await new Promise((done) => setImmediate(done));
    if (!ended) return { step };
    expect((await step).done).toBe(false);
  }
}

test("a signal stops a run in the middle of a call, wherever it is", async () => {
  const reason = new Error("enough");
  // Hundreds of steps would take minutes: who waits for them, or for the rest of a step, does not come to an end.
  const long = { ...request, steps: 900 };
  for (const [more, before] of [
    [{}, 0],
    [{}, 2],
    [{ image, strength: 1 }, 0],
    [{ image, mask: hostImage(24, 24, 1, new Uint8Array(576).fill(255)) }, 1],
  ] as [Partial<TextToImageRequestInput>, number][]) {
    const controller = new AbortController();
    const run = pipe.stream({ ...long, ...more }, { signal: controller.signal });
    for (let step = 0; step < before; step++) expect((await run.next()).done).toBe(false);
    const next = await unfinished(run);
    controller.abort(reason);
    await expect(next.step).rejects.toBe(reason);
    expect(await run.next()).toEqual({ done: true, value: undefined });
  }
  const stopped = pipe.stream(request, { signal: AbortSignal.abort(reason) });
  await expect(stopped.next()).rejects.toBe(reason);
  expect(await pipe.generate(request)).toHaveLength(1);
});

test("a run that fails in its middle leaves what was finished, and nothing else", async () => {
  let err = "";
  const listen = (text: string) => {
    if (text.includes('"event":"picture"')) throw new Error("nobody listens");
    return true;
  };
  const io = consoleOn({ write: listen }, { write: (text) => (err += text) });
  const out = join(folder, "out");
  const words = ["--seed", "1", "--count", "2", "--batch", "1", "--json", "--grid", join(folder, "plot.png")];
  const common = ["a cat", "--model", relative(".", model), "--threads", "1", "--steps", "1", "--out", out];
  expect(await run(["generate", ...common, ...words], io)).not.toBe(0);
  expect(err).toContain("nobody listens");
  expect([await readdir(folder), await readdir(out)]).toEqual([["out"], ["sd15-seed1.png"]]);
});

test("a run that is stopped leaves the pictures that were finished, whole, and nothing else", async () => {
  const out = join(folder, "stopped");
  const [grid, maps] = [join(folder, "stopped.png"), join(folder, "maps")];
  const lines: string[] = [];
  const listen = (text: string) => {
    lines.push(text);
    // The second picture has begun when the first is said to be there.
    if (text.includes('"event":"picture"')) process.emit("SIGINT");
    return true;
  };
  const io = consoleOn({ write: listen }, { write: () => true });
  const files = ["--out", out, "--grid", grid, "--attention-maps", maps];
  const words = ["a cat", "--model", relative(".", model), "--threads", "1", "--steps", "2", "--count", "3", "--json"];
  expect(await run(["generate", ...words, ...files], io)).toBe(130);
  expect(lines.join("")).not.toContain('"event":"end"');
  expect(await readdir(out)).toEqual(["sd15-seed0.png"]);
  expect((await decodeImage(join(out, "sd15-seed0.png"))).width).toBe(24);
  expect(await readdir(maps)).toEqual(["seed0"]);
  expect((await readdir(folder)).filter((name) => name.startsWith("stopped"))).toEqual(["stopped"]);
});

test("drawing never holds up the event loop for 50 milliseconds", async () => {
  const masked = { image, mask: hostImage(24, 24, 1, new Uint8Array(576).fill(255)), maskFeather: 2 } as const;
  const drawing = async () => {
    for (const more of [{}, { seamless: "both" as const, stepCache: 2 }, masked, { enlarge: 1.5 }]) {
      for await (const state of pipe.stream({ ...request, ...more }, { attention: {} })) await state.preview();
    }
  };
  // What the compiler of JavaScript does the first time is not drawing.
  await drawing();
  expect(await longestTurn(drawing)).toBeLessThan(50);
});
