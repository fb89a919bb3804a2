import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { consoleOn } from "../src/cli/console.ts";
import { run } from "../src/cli/program.ts";
import { seeded } from "../src/core/random.ts";
import { decodeImage, encodeSafetensors, hostImage, modelFolder } from "../src/io/index.ts";
import { pipeline } from "../src/pipelines/index.ts";
import { type TestHub, testHub } from "./hub-server.ts";
import { commandsOf, printed } from "./page-code.ts";
import { tinyDit, tinyXl, writeTiny, writeTinyControlNet } from "./tiny-models.ts";

const sd15 = fileURLToPath(new URL("fixtures/reference/pipelines/sd15", import.meta.url));
const ddpm = fileURLToPath(new URL("fixtures/reference/pipelines/ddpm", import.meta.url));

const sd15Lora = join(sd15, "lora", "pytorch_lora_weights.safetensors");

let folder: string;
let hub: TestHub;
let words: Uint8Array;
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
  const unet = await filesOf(ddpm);
  const beside = Object.entries(unet).map(([path, bytes]) => [basename(path), bytes] as const);
  const { "unet/diffusion_pytorch_model.safetensors": plain, ...rest } = await filesOf(sd15);
  const halves = Object.fromEntries(
    Object.entries({ ...rest, "unet/diffusion_pytorch_model.safetensors": plain! }).map(([path, bytes]) => [
      path.replace(/(?<!lora.*)\.safetensors$/, ".fp16.safetensors"),
      bytes,
    ]),
  );
  const lora = await readFile(sd15Lora);
  words = encodeSafetensors([["emb_params", seeded(2).normal([3, 32])]]);
  hub = await testHub({
    "org/beside": { files: Object.fromEntries(beside) },
    "org/mixed": { files: { ...rest, "unet/diffusion_pytorch_model.fp16.safetensors": plain! } },
    "stable-diffusion-v1-5/stable-diffusion-v1-5": { files: halves },
    "org/lora": { files: { "README.md": words, "pytorch_lora_weights.safetensors": lora } },
    "org/words": { files: { "learned_embeds.safetensors": words } },
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

test("a network whose files lie beside model_index.json is drawn with from the hub", async () => {
  const request = { count: 1, steps: 2 };
  const theirs = await pipeline("unconditional-image-generation", "org/beside");
  const ours = await pipeline("unconditional-image-generation", ddpm);
  expect((await theirs.generate(request))[0]!.data).toEqual((await ours.generate(request))[0]!.data);
  for (const pipe of [theirs, ours]) await pipe.close();
});

test("parts that lack the variant are drawn with by their plain weights, which is said", async () => {
  const request = { prompt: "a cat", steps: 2 };
  const options = { variant: "fp16", controlNet: "org/control", vae: "org/vae" };
  const theirs = await pipeline("text-to-image", "org/mixed", options);
  const ours = await pipeline("text-to-image", sd15, { controlNet: at("control"), vae: join(at("base"), "vae") });
  const draw = (pipe: typeof ours) =>
    pipe.generate({ ...request, controlImage: hostImage(24, 24, 3, new Uint8Array(1728)) });
  expect((await draw(theirs))[0]!.data).toEqual((await draw(ours))[0]!.data);
  const lacking = theirs.model.warnings.map((text) => /(\S+) has no fp16 weights; taken/.exec(text)?.[1]);
  expect(lacking.map((path) => path && basename(path))).toEqual(["text_encoder", "vae", "control"]);
  expect(lacking.slice(1)).toEqual(["org/vae", "org/control"]);
  // The same of a folder.
  const folder = await modelFolder("org/mixed", { variant: "fp16" });
  const local = await pipeline("text-to-image", folder, options);
  expect(local.model.warnings).toEqual(theirs.model.warnings);
  for (const pipe of [theirs, ours, local]) await pipe.close();
  await expect(pipeline("text-to-image", sd15, { variant: "fp16" })).rejects.toThrow(
    /no diffusion_pytorch_model.fp16.safetensors.* it has weights without a variant/,
  );
  await expect(pipeline("text-to-image", "org/mixed", { variant: "bf16" })).rejects.toThrow(
    /org\/mixed has no bf16 weights; it has weights without a variant, variant "fp16"/,
  );
});

test("a refiner that has no such variant is taken as it is", async () => {
  const fp16 = at("base-fp16");
  await cp(at("base"), fp16, { recursive: true });
  for (const part of ["unet", "vae", "text_encoder", "text_encoder_2"]) {
    for (const name of await readdir(join(fp16, part))) {
      if (name.endsWith(".safetensors")) {
        await rename(join(fp16, part, name), join(fp16, part, name.replace(".safetensors", ".fp16.safetensors")));
      }
    }
  }
  for (const refiner of ["org/refiner", at("refiner")]) {
    const pipe = await pipeline("text-to-image", fp16, { variant: "fp16", refiner });
    expect(await pipe.generate({ prompt: "a cat", steps: 2, refineFrom: 0.5 })).toHaveLength(1);
    expect(pipe.model.warnings.join()).toMatch(/refiner.*has no fp16 weights/);
    await pipe.close();
  }
});

test("LoRAs and learned words are of the hub as well as files", async () => {
  await writeFile(at("words.safetensors"), words);
  const theirs = await pipeline("text-to-image", sd15, { embeddings: ["my-cat=org/words"] });
  const ours = await pipeline("text-to-image", sd15, { embeddings: [`my-cat=${at("words.safetensors")}`] });
  const draw = async (pipe: typeof ours, path: string) =>
    (await pipe.generate({ prompt: "a my-cat", steps: 2, loras: [`${path}:0.5`] }))[0]!.data;
  const expected = await draw(ours, sd15Lora);
  expect(await draw(theirs, "org/lora")).toEqual(expected);
  expect(await draw(theirs, "org/lora/pytorch_lora_weights.safetensors")).toEqual(expected);
  await expect(draw(theirs, "org/words/style.safetensors")).rejects.toMatchObject({
    ...{ name: "UserError", options: { field: "lora" } },
    message: expect.stringContaining("org/words has no file style.safetensors"),
  });
  for (const pipe of [theirs, ours]) await pipe.close();
});

test("the code and the commands of docs/hub.md do what they say with a tiny model", async () => {
  expect(await printed("hub.md", {})).toEqual([[[1, []]]]);
  const io = consoleOn({ write: () => true }, { write: () => true });
  const commands = await commandsOf("hub.md");
  expect(commands).toHaveLength(1);
  const [given] = commands.map((command) => command.map((word) => (word === "drawn.png" ? at("page.png") : word)));
  expect(await run([...given!, "--threads", "1"], io)).toBe(0);
  expect((await decodeImage(at("page.png"))).width).toBeGreaterThan(0);
});
