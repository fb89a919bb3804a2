import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { decodeImage, hostImage } from "../src/io/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { type TestHub, testHub } from "./hub-server.ts";
import { tinyDit, tinyXl, writeTiny, writeTinyControlNet } from "./tiny-models.ts";

const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
const ddpm = fileURLToPath(new URL("fixtures/reference/pipelines/ddpm", import.meta.url));

let folder: string;
let hub: TestHub;
const at = (name: string) => join(folder, name);

/** The files of a folder, by their paths in it. */
async function filesOf(path: string): Promise<Record<string, Uint8Array>> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Object.fromEntries(
    await Promise.all(files.map(async (file) => [file.slice(path.length + 1), await readFile(file)] as const)),
  );
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "allegory-hub-pipelines-"));
  await writeTiny(at("dit"), tinyDit());
  await writeTiny(at("base"), tinyXl("base"));
  await writeTiny(at("refiner"), tinyXl("refiner"));
  await writeTinyControlNet(at("control"), sd15);
  hub = await testHub({
    "org/ddpm": { files: await filesOf(ddpm) },
    "org/dit": { files: await filesOf(at("dit")) },
    "org/base": { files: await filesOf(at("base")) },
    "org/refiner": { files: await filesOf(at("refiner")) },
    "org/control": { files: await filesOf(at("control")) },
    "org/vae": { files: await filesOf(join(at("base"), "vae")) },
  });
});
beforeEach(() => {
  for (const name of ["HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"]) {
    vi.stubEnv(name, "");
  }
  vi.stubEnv("HF_HOME", at("home"));
  vi.stubEnv("HF_ENDPOINT", hub.endpoint);
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  await rm(folder, { recursive: true });
});

test("models without words are drawn with from the hub as from a folder", async () => {
  for (const [task, id, path, request] of [
    ["unconditional-image-generation", "org/ddpm", ddpm, { count: 1, steps: 3 }],
    ["class-to-image", "org/dit", at("dit"), { count: 1, steps: 3, class: "cock" }],
  ] as const) {
    const files: string[] = [];
    const theirs = await pipeline(task, id, { hub: { onProgress: ({ file }) => files.push(file) } });
    const ours = await pipeline(task, path);
    expect((await theirs.generate(request))[0]!.data).toEqual((await ours.generate(request))[0]!.data);
    expect(files).toContain("model_index.json");
    await theirs.close();
    await ours.close();
  }
});

test("allegory sample takes one of the hub", async () => {
  const io = consoleOn({ write: () => true }, { write: () => true });
  const words = ["--count", "1", "--steps", "2", "--threads", "1", "--out", at("drawn.png")];
  expect(await run(["sample", "org/ddpm", ...words], io)).toBe(0);
  expect((await decodeImage(at("drawn.png"))).width).toBeGreaterThan(0);
});

test("allegory inspect takes one of the hub, and without it what the cache has", async () => {
  const inspected = async (...words: string[]) => {
    let out = "";
    const io = consoleOn({ write: (text) => (out += text) }, { write: () => true });
    return { status: await run(["inspect", "org/ddpm", ...words], io), out };
  };
  const { status, out } = await inspected("--revision", "v1");
  expect(status).toBe(0);
  expect(out).toMatch(/org\/ddpm: pipeline folder \(DDPMPipeline\)[\s\S]*unet: UNet2DModel, [\d,]+ parameters/);
  vi.stubEnv("HF_HUB_OFFLINE", "1");
  expect(await inspected("--revision", "v1")).toEqual({ status, out });
  expect((await inspected("--revision", "other")).status).toBe(2);
});

test("a control network is one of the hub as well as a folder", async () => {
  const controlImage = hostImage(24, 24, 3, new Uint8Array(1728).fill(200));
  const request = { prompt: "a cat", steps: 2, controlImage };
  const [theirs, ours] = [
    await pipeline("text-to-image", sd15, { controlNet: "org/control" }),
    await pipeline("text-to-image", sd15, { controlNet: at("control") }),
  ];
  expect((await theirs.generate(request))[0]!.data).toEqual((await ours.generate(request))[0]!.data);
  for (const pipe of [theirs, ours]) await pipe.close();
  await expect(pipeline("text-to-image", sd15, { controlNet: "org/none" })).rejects.toMatchObject({
    ...{ name: "UserError", options: { field: "controlNet" }, message: expect.stringContaining("org/none") },
  });
});

test("a revision is that of the model; its other parts may be folders or models without it", async () => {
  const options = { hub: { revision: "v1" }, vae: "org/vae", refiner: at("refiner") };
  const pipe = await pipeline("text-to-image", "org/base", options);
  expect(await pipe.generate({ prompt: "a cat", steps: 2, refineFrom: 0.5 })).toHaveLength(1);
  await pipe.close();
  const local = pipeline("text-to-image", at("base"), options);
  await expect(local).rejects.toThrow(/is a folder of this machine; it has no revision v1/);
});
