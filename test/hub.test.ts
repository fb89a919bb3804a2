import { existsSync } from "node:fs";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, realpath, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterAll, afterEach, beforeEach, expect, test, vi } from "vitest";
import { UserError } from "../src/core/errors.ts";
import { float32 } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import {
  encodeSafetensors,
  type HubOptions,
  type HubProgress,
  hubAddition,
  hubFile,
  modelFolder,
  openWeights,
  readPipelineFolder,
} from "../src/io/index.ts";
import { COMMIT, type TestHub, testHub } from "./hub-server.ts";

const text = (value: unknown) =>
  new TextEncoder().encode(typeof value === "string" ? value : `${JSON.stringify(value, null, 2)}\n`);
const random = seeded(1);
const weights = (count: number) => encodeSafetensors([["w", random.normal([count])]], { format: "pt" });
const large = weights(60_000);

const pipeline = {
  _class_name: "StableDiffusionPipeline",
  unet: ["diffusers", "UNet2DConditionModel"],
  vae: ["diffusers", "AutoencoderKL"],
  tokenizer: ["transformers", "CLIPTokenizer"],
  scheduler: ["diffusers", "PNDMScheduler"],
  safety_checker: ["stable_diffusion", "StableDiffusionSafetyChecker"],
  feature_extractor: [null, null],
  requires_safety_checker: true,
};

const shards = [encodeSafetensors([["a", float32([2], [1, 2])]]), encodeSafetensors([["b", float32([1], [3])]])];
const shard = (i: number) => `diffusion_pytorch_model-0000${i}-of-00002.safetensors`;

const files: Record<string, Uint8Array> = {
  "README.md": text("# A model"),
  "v1-5.ckpt.safetensors": weights(10),
  "model_index.json": text(pipeline),
  "unet/config.json": text({ _class_name: "UNet2DConditionModel" }),
  "unet/diffusion_pytorch_model.safetensors": large,
  "unet/diffusion_pytorch_model.fp16.safetensors": weights(20),
  "unet/diffusion_pytorch_model.bin": weights(30),
  "unet/diffusion_pytorch_model.non_ema.safetensors": weights(40),
  "vae/config.json": text({ _class_name: "AutoencoderKL" }),
  "vae/diffusion_pytorch_model.safetensors.index.json": text({ weight_map: { a: shard(1), b: shard(2) } }),
  [`vae/${shard(1)}`]: shards[0]!,
  [`vae/${shard(2)}`]: shards[1]!,
  "vae/diffusion_pytorch_model.fp16.safetensors": weights(21),
  "tokenizer/vocab.json": text({ a: 0 }),
  "tokenizer/merges.txt": text("a b"),
  "scheduler/scheduler_config.json": text({ _class_name: "PNDMScheduler" }),
  "safety_checker/model.safetensors": weights(50),
};
const needed = [
  "model_index.json",
  "scheduler/scheduler_config.json",
  "tokenizer/merges.txt",
  "tokenizer/vocab.json",
  "unet/config.json",
  "unet/diffusion_pytorch_model.safetensors",
  "vae/config.json",
  `vae/${shard(1)}`,
  `vae/${shard(2)}`,
  "vae/diffusion_pytorch_model.safetensors.index.json",
];

const root = await realpath(await mkdtemp(join(tmpdir(), "allegory-hub-")));
let hub: TestHub;
let cache: string;
let options: HubOptions;
let runs = 0;

beforeEach(async () => {
  // Nothing of this machine's own settings may matter.
  for (const name of [
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
  ]) {
    vi.stubEnv(name, "");
  }
  vi.stubEnv("HF_HOME", join(root, "home"));
  hub = await testHub({
    "org/model": { files },
    "org/secret": { files, token: "hf_secret" },
    "org/gated": { files, token: "hf_other", gated: true },
    "org/pickled": { files: { "config.json": text({}), "diffusion_pytorch_model.bin": weights(3) } },
    "org/mixed": {
      files: {
        "model_index.json": text({ unet: pipeline.unet, vae: pipeline.vae, watermark: ["x", "Watermark"] }),
        "unet/config.json": text({}),
        "unet/diffusion_pytorch_model.safetensors": weights(6),
        "unet/diffusion_pytorch_model.fp16.safetensors": weights(7),
        "vae/config.json": text({}),
        "vae/diffusion_pytorch_model.safetensors": weights(8),
      },
    },
    "org/flat": {
      files: {
        "model_index.json": text({ unet: ["diffusers", "UNet2DModel"], scheduler: ["diffusers", "DDPMScheduler"] }),
        "config.json": text({ _class_name: "UNet2DModel" }),
        "diffusion_pytorch_model.safetensors": weights(9),
        "diffusion_pytorch_model.bin": weights(10),
        "scheduler_config.json": text({}),
      },
    },
    "org/lacking": {
      files: {
        "model_index.json": text({ unet: ["diffusers", "UNet2DModel"], scheduler: ["diffusers", "DDPMScheduler"] }),
        "config.json": text({}),
        "diffusion_pytorch_model.safetensors": weights(9),
      },
    },
    "org/named": { files: { "pytorch_lora_weights.safetensors": weights(11), "other.safetensors": weights(12) } },
    "org/several": { files: { "a.safetensors": weights(13), "in/b.safetensors": weights(14) } },
    "org/lora": { files: { "README.md": text("x"), "adapter.safetensors": weights(5) } },
    "org/escape": { files: { "config.json": text({}), "model.safetensors": weights(3), "../../evil.json": text({}) } },
  });
  cache = join(root, `cache-${runs++}`);
  options = { cache, endpoint: hub.endpoint };
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
});
afterAll(() => rm(root, { recursive: true, force: true }));

async function filesIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true });
  const kinds = await Promise.all(entries.map(async (entry) => (await stat(join(folder, entry))).isFile()));
  return entries.filter((_, i) => kinds[i]).sort();
}

async function refusal(run: Promise<unknown>): Promise<string> {
  const error = await run.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(UserError);
  return (error as Error).message;
}

const downloaded = () => hub.requests.filter(({ path }) => path.includes("/resolve/")).map(({ path }) => path);

test("a pipeline is downloaded into the layout that Python shares, and only what is needed of it", async () => {
  const events: HubProgress[] = [];
  const folder = await modelFolder("org/model", { ...options, onProgress: (event) => events.push(event) });
  expect(folder).toBe(join(cache, "models--org--model", "snapshots", COMMIT));
  expect(await filesIn(folder)).toEqual(needed);
  expect(await readFile(join(cache, "models--org--model", "refs", "main"), "utf8")).toBe(COMMIT);
  for (const path of needed) {
    expect((await readFile(join(folder, path))).equals(files[path]!)).toBe(true);
    expect((await lstat(join(folder, path))).isSymbolicLink()).toBe(true);
    expect(await readlink(join(folder, path))).toMatch(/^(\.\.\/)+blobs\/[0-9a-f]{40,64}$/);
  }
  const last = events.at(-1)!;
  expect(last.totalReceived).toBe(last.totalSize);
  expect(last.totalSize).toBe(needed.reduce((sum, path) => sum + files[path]!.length, 0));
  expect(new Set(events.map(({ file }) => file))).toEqual(new Set(needed));

  // ONNX Runtime refuses links that lead out of the folder it is given: weights are opened by their real paths.
  const { components } = await readPipelineFolder(folder, { needs: ["unet", "vae"] });
  const unet = await openWeights(components.get("unet")!.path);
  expect(basename(dirname(unet.files[0]!))).toBe("blobs");
  expect([...(await openWeights(components.get("vae")!.path)).tensors.keys()].sort()).toEqual(["a", "b"]);

  // The next time only the commit is looked up.
  const before = downloaded().length;
  const written = async () => {
    const entries = await readdir(cache, { recursive: true });
    return Promise.all(entries.sort().map(async (entry) => [entry, (await lstat(join(cache, entry))).mtimeMs]));
  };
  const state = await written();
  expect(await modelFolder("org/model", options)).toBe(folder);
  expect(downloaded().length).toBe(before);
  // Nor is anything written: the cache may be one that can only be read.
  expect(await written()).toEqual(state);
});

test("a variant of the weights is taken instead of the others", async () => {
  const folder = await modelFolder("org/model", { ...options, variant: "fp16" });
  const found = (await filesIn(folder)).filter((path) => path.endsWith(".safetensors"));
  expect(found).toEqual([
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
  ]);
  expect(await refusal(modelFolder("org/model", { ...options, variant: "bf16" }))).toMatch(
    /org\/model has no bf16 weights; it has weights without a variant, variant "fp16"/,
  );
});

test("of parts that lack the variant the plain weights are taken; so of all where it is optional", async () => {
  const weightsOf = async (variant: string, more: HubOptions = {}) => {
    const folder = await modelFolder("org/mixed", { ...options, ...more, variant });
    return (await filesIn(folder)).filter((path) => path.endsWith(".safetensors"));
  };
  const mixed = ["unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"];
  expect(await weightsOf("fp16")).toEqual(mixed);
  expect(await refusal(weightsOf("bf16"))).toMatch(/no bf16 weights; it has weights without a variant, variant "fp16"/);
  const other = join(root, "optional");
  expect(await weightsOf("bf16", { cache: other, variantOptional: true })).toEqual([
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
  ]);
  // At a commit that is in the cache, what would do in place of the variant is no reason not to ask for it.
  const asked = hub.requests.length;
  expect(await weightsOf("fp16", { cache: other, revision: COMMIT })).toHaveLength(3);
  expect(hub.requests.length).toBeGreaterThan(asked);
});

test("parts of the first published pipelines lie beside model_index.json", async () => {
  const folder = await modelFolder("org/flat", options);
  expect(await filesIn(folder)).toEqual([
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "model_index.json",
    "scheduler_config.json",
  ]);
  expect(await modelFolder("org/flat", { ...options, offline: true })).toBe(folder);
  expect(await refusal(modelFolder("org/lacking", options))).toContain(
    "org/lacking has no folder for scheduler, which its model_index.json lists",
  );
});

test("interrupted transfers go on where they ended", async () => {
  hub.faults.push(100_000, 50_000, "fails", 10_000);
  const folder = await modelFolder("org/model", options);
  const path = "unet/diffusion_pytorch_model.safetensors";
  expect((await readFile(join(folder, path))).equals(files[path]!)).toBe(true);
  const starts = hub.requests
    .map(({ range }) => Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0))
    .filter((start) => start > 0);
  // What arrived before a connection broke depends on timing, but each start is beyond the last.
  expect(starts.length).toBeGreaterThanOrEqual(2);
  expect(starts).toEqual([...starts].sort((a, b) => a - b));
});

test("what came of a transfer that was given up is kept for the next start", { timeout: 30_000 }, async () => {
  const path = "unet/diffusion_pytorch_model.safetensors";
  hub.faults.push(90_000, 10_000, 10_000, 10_000, 10_000);
  const message = await refusal(modelFolder("org/model", options));
  expect(message).toContain(`The download of org/model/${path} was interrupted 5 times`);
  const blobs = join(cache, "models--org--model", "blobs");
  const [incomplete] = (await readdir(blobs)).filter((name) => name.endsWith(".incomplete"));
  const { size } = await stat(join(blobs, incomplete!));
  expect(size).toBeGreaterThan(0);
  expect(existsSync(join(cache, "models--org--model", "refs", "main"))).toBe(false);
  const asked = hub.requests.length;
  const folder = await modelFolder("org/model", options);
  expect(hub.requests.slice(asked).map(({ range }) => range)).toContain(`bytes=${size}-${files[path]!.length - 1}`);
  expect((await readFile(join(folder, path))).equals(files[path]!)).toBe(true);
});

test("a server that ignores ranges, and damaged contents, do not end in a wrong file", {
  timeout: 30_000,
}, async () => {
  hub.faults.push(90_000, "ignores ranges");
  const folder = await modelFolder("org/model", options);
  const path = "unet/diffusion_pytorch_model.safetensors";
  expect((await readFile(join(folder, path))).equals(files[path]!)).toBe(true);

  hub.faults.push("damages");
  const message = await refusal(modelFolder("org/model", { ...options, cache: join(root, "damaged") }));
  expect(message).toContain(`org/model/${path} arrived damaged`);
  const left = await readdir(join(root, "damaged", "models--org--model", "blobs"));
  expect(left.filter((name) => name.endsWith(".incomplete"))).toEqual([]);
});

test("an aborted download stops", async () => {
  const stop = new AbortController();
  const error = await modelFolder("org/model", {
    ...options,
    signal: stop.signal,
    onProgress: ({ file, received }) => {
      if (file.startsWith("unet/d") && received > 0) stop.abort();
    },
  }).catch((reason: unknown) => reason);
  expect(stop.signal.aborted).toBe(true);
  expect(error).toBeDefined();
  expect(existsSync(join(cache, "models--org--model", "refs", "main"))).toBe(false);
});

test("models that are not there, not allowed or of another revision are told apart", async () => {
  expect(await refusal(modelFolder("org/nothing", options))).toContain(
    "no public model org/nothing on the hub, nor a folder",
  );
  expect(await refusal(modelFolder("org/gated", options))).toMatch(/Access to org\/gated is restricted.*\n.*HF_TOKEN/s);
  expect(await refusal(modelFolder("org/gated", { ...options, token: "hf_x" }))).toContain(
    "token given does not allow",
  );
  expect(await refusal(modelFolder("org/model", { ...options, revision: "v9" }))).toContain("no revision v9");
  expect(await refusal(modelFolder("org/model", { ...options, revision: "../v9" }))).toContain("is no revision");
  expect(await refusal(modelFolder("org/model", { ...options, token: "secret" }))).toContain("does not begin with hf_");
  expect(await refusal(modelFolder("org/pickled", options))).toMatch(
    /no safetensors weights of a model in org\/pickled; it has .*\.bin.*Pickled/s,
  );
  expect(await refusal(modelFolder("./nowhere/at/all", options))).toContain("There is no folder ./nowhere/at/all");
});

test("the token goes to the hub and not to the store that it sends to", async () => {
  vi.stubEnv("HF_TOKEN", "hf_secret");
  await modelFolder("org/secret", options);
  const stored = hub.requests.filter(({ path }) => /^\/[0-9a-f]{64}$/.test(path));
  expect(stored.length).toBeGreaterThan(0);
  expect(stored.every(({ token }) => token === undefined)).toBe(true);
  const asked = hub.requests.filter(({ path }) => path.includes("org/secret"));
  expect(asked.every(({ token }) => token === "Bearer hf_secret")).toBe(true);
});

test("offline, the cache is used and nothing else", async () => {
  const folder = await modelFolder("org/model", options);
  const asked = hub.requests.length;
  expect(await modelFolder("org/model", { ...options, offline: true })).toBe(folder);
  vi.stubEnv("HF_HUB_OFFLINE", "1");
  expect(await modelFolder("org/model", options)).toBe(folder);
  expect(await modelFolder("org/model", { ...options, revision: COMMIT })).toBe(folder);
  expect(await refusal(modelFolder("org/other", options))).toMatch(
    /org\/other \(revision main\) is not in the cache .*\n.*Offline/s,
  );
  expect(await refusal(modelFolder("org/model", { ...options, revision: "v1" }))).toContain("revision v1");
  await rm(join(folder, "vae", shard(2)));
  expect(await refusal(modelFolder("org/model", options))).toContain(
    "or not all of it: org/model has 1 of the 2 files",
  );
  expect(hub.requests.length).toBe(asked);
});

test("a commit that is in the cache is not looked up; Python's own cache is understood", async () => {
  const snapshot = join(cache, "models--org--python", "snapshots", COMMIT);
  await mkdir(snapshot, { recursive: true });
  await writeFile(join(snapshot, "config.json"), "{}");
  await writeFile(join(snapshot, "model.safetensors"), weights(3));
  expect(await modelFolder("org/python", { ...options, revision: COMMIT })).toBe(snapshot);
  expect(hub.requests).toEqual([]);
  // Not complete, it is completed.
  await rm(join(snapshot, "model.safetensors"));
  expect(await refusal(modelFolder("org/python", { ...options, revision: COMMIT }))).toContain("no public model");
});

test("without a connection an earlier download is used, and said so", async () => {
  const folder = await modelFolder("org/model", options);
  const gone = { ...options, endpoint: "http://127.0.0.1:9" };
  const warnings: string[] = [];
  expect(await modelFolder("org/model", { ...gone, onWarning: (warning) => warnings.push(warning) })).toBe(folder);
  expect(warnings).toEqual([expect.stringContaining("The hub cannot be reached")]);
  expect(await refusal(modelFolder("org/lora", gone))).toContain("org/lora is not in the cache");
});

test.each([
  [503, /The hub answered with status 503, .*\n.*try again/],
  [429, /The hub answered with status 429, .*\n.*HF_TOKEN/],
  ["page", /http:.* does not answer as a hub does .*\n.*log-in page/],
] as const)("a hub that answers with %s is as one that is not there", async (outage, expected) => {
  const folder = await modelFolder("org/model", options);
  hub.outage = outage;
  const warnings: string[] = [];
  expect(await modelFolder("org/model", { ...options, onWarning: (warning) => warnings.push(warning) })).toBe(folder);
  expect(warnings).toEqual([expect.stringMatching(/taken is what was downloaded of org\/model before/)]);
  const message = await refusal(modelFolder("org/lora", options));
  expect(message).toMatch(expected);
  expect(message).toContain("org/lora is not in the cache");
});

test("a small file that an earlier download left damaged is downloaded anew", async () => {
  const folder = await modelFolder("org/model", options);
  const blob = await realpath(join(folder, "unet", "config.json"));
  for (const damaged of [Buffer.concat([files["unet/config.json"]!, files["unet/config.json"]!]), ""]) {
    await writeFile(blob, damaged);
    await modelFolder("org/model", options);
    expect((await readFile(blob)).equals(files["unet/config.json"]!)).toBe(true);
  }
  const large = await realpath(join(folder, "unet", "diffusion_pytorch_model.safetensors"));
  await writeFile(large, "half of it");
  await modelFolder("org/model", options);
  expect((await readFile(large)).equals(files["unet/diffusion_pytorch_model.safetensors"]!)).toBe(true);
});

test("a single file is downloaded alone", async () => {
  const path = await hubFile("org/lora", "adapter.safetensors", options);
  expect(path).toBe(join(cache, "models--org--lora", "snapshots", COMMIT, "adapter.safetensors"));
  expect(downloaded().every((each) => each.endsWith("adapter.safetensors"))).toBe(true);
  expect(await hubFile("org/lora", "adapter.safetensors", { ...options, offline: true })).toBe(path);
  expect(await modelFolder("org/lora/adapter.safetensors", options)).toBe(path);
  expect(await refusal(hubFile("org/lora", "other.safetensors", options))).toMatch(
    /org\/lora has no file other.safetensors.\nName one of its files: org\/lora\/adapter.safetensors/,
  );
  expect(await refusal(modelFolder("org/nothing/a.safetensors", options))).toContain(
    "no public model org/nothing on the hub, nor a file org/nothing/a.safetensors here",
  );
  expect(await refusal(modelFolder("folder/a.safetensors", options))).toContain("no file folder/a.safetensors");
});

test("what belongs beside a model is found by its name, or is the only file", async () => {
  const names = ["pytorch_lora_weights.safetensors"];
  expect(basename(await hubAddition({ id: "org/named" }, names, options))).toBe(names[0]);
  expect(basename(await hubAddition({ id: "org/lora" }, names, options))).toBe("adapter.safetensors");
  const given = await hubAddition({ id: "org/several", file: "in/b.safetensors" }, names, options);
  expect(basename(given)).toBe("b.safetensors");
  expect(await refusal(hubAddition({ id: "org/several" }, names, options))).toMatch(
    /no file pytorch_lora_weights.safetensors but 2 others.\n.*org\/several\/a.safetensors, org\/several\/in\/b/,
  );
});

test("a repository of something else says what it seems to be", async () => {
  expect(await refusal(modelFolder("org/named", options))).toMatch(/no safetensors weights of a model .*\n.*be a LoRA/);
  expect(await refusal(modelFolder("org/lora", options))).toMatch(
    /a whole model in one file, give it by its name: org\/lora\/adapter.safetensors/,
  );
});

test("paths that lead out of the cache are passed over", async () => {
  const folder = await modelFolder("org/escape", options);
  expect(await filesIn(folder)).toEqual(["config.json", "model.safetensors"]);
  expect(existsSync(join(cache, "models--org--escape", "evil.json"))).toBe(false);
});

test("a folder is taken as it is, and has no revisions", async () => {
  const folder = join(root, "local");
  await mkdir(folder, { recursive: true });
  expect(await modelFolder(folder)).toBe(folder);
  expect(await refusal(modelFolder(folder, { revision: "main" }))).toContain("no revision main");
});

test("asked for twice at the same time, a model is downloaded once", async () => {
  const [a, b] = await Promise.all([modelFolder("org/model", options), modelFolder("org/model", options)]);
  expect(a).toBe(b);
  const path = "unet/diffusion_pytorch_model.safetensors";
  expect((await readFile(join(a, path))).equals(files[path]!)).toBe(true);
});
