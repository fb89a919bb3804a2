import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { seeded } from "../src/core/random.ts";
import { encodeSafetensors, modelFolder } from "../src/io/index.ts";
import { takeLease } from "../src/io/lease.ts";
import { COMMIT, testHub } from "./hub-server.ts";

const child = fileURLToPath(new URL("./hub-processes-child.ts", import.meta.url));
const root = await mkdtemp(join(tmpdir(), "allegory-hub-processes-"));
afterAll(() => rm(root, { recursive: true, force: true }));

const text = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const WEIGHTS = "diffusion_pytorch_model.safetensors";
const files = {
  "config.json": text({ _class_name: "UNet2DModel" }),
  "vocab.json": text(Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`token${i}`, i]))),
  [WEIGHTS]: encodeSafetensors([["w", seeded(1).normal([300_000])]], { format: "pt" }),
};

/** Starts a process that downloads. */
function downloader(endpoint: string, cache: string) {
  const run = spawn(process.execPath, ["--import", "tsx", child, endpoint, cache], {
    env: { ...process.env, HF_HUB_OFFLINE: "", HF_TOKEN: "", HUGGING_FACE_HUB_TOKEN: "", HF_HOME: join(root, "home") },
  });
  let out = "";
  let errors = "";
  const told = new Set<() => void>();
  run.stdout.on("data", (bytes: Buffer) => {
    out += String(bytes);
    for (const look of told) look();
  });
  run.stderr.on("data", (bytes: Buffer) => (errors += String(bytes)));
  const ended = new Promise<string>((resolve) => {
    run.on("close", (code, signal) => resolve(signal ?? `${code} ${out.split("\n").at(-2)}${errors}`));
  });
  return {
    ended,
    /** Resolves when it has told that it is amid a file. */
    amid: (file: string) =>
      new Promise<void>((resolve) => {
        const look = () => out.includes(`amid ${file}\n`) && resolve();
        told.add(look);
        look();
      }),
  };
}

test("processes that download the same model, of which one is killed, end with one right copy of it", async () => {
  const hub = await testHub({ "org/model": { files } });
  const cache = join(root, "killed");
  // Whoever comes first gets half of the weights and is killed; whoever goes on is interrupted once.
  hub.faults.push("trickles", 50_000);
  const runs = [1, 2, 3].map(() => downloader(hub.endpoint, cache));
  // Those that wait tell of it, too.
  await Promise.all(runs.map((run) => run.amid(WEIGHTS)));
  const locks = join(cache, ".locks", "models--org--model");
  const { pid } = JSON.parse(await readFile(join(locks, (await readdir(locks))[0]!), "utf8"));
  process.kill(pid, "SIGKILL");
  const ends = await Promise.all(runs.map(({ ended }) => ended));
  const folder = join(cache, "models--org--model", "snapshots", COMMIT);
  expect(ends.sort()).toEqual([`0 folder ${folder}`, `0 folder ${folder}`, "SIGKILL"]);
  for (const [path, bytes] of Object.entries(files)) {
    expect([path, (await readFile(join(folder, path))).equals(bytes)]).toEqual([path, true]);
  }
  // Nothing is left of what came before it was finished.
  const blobs = await readdir(join(cache, "models--org--model", "blobs"));
  expect(blobs.filter((name) => !/^[0-9a-f]{40}([0-9a-f]{24})?$/.test(name))).toEqual([]);
  expect(await readdir(locks)).toEqual([]);
  // Downloaded once: each transfer of the weights began where the one before ended.
  const transfers = hub.requests.filter(({ path, range }) => /^\/[0-9a-f]{64}$/.test(path) && range !== "bytes=0-0");
  const starts = transfers.map(({ range }) => Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0));
  expect(starts).toHaveLength(3);
  expect(starts[0]).toBe(0);
  expect(starts[1]).toBeGreaterThan(0);
  expect(starts[2]).toBeGreaterThanOrEqual(starts[1]!);
  const small = hub.requests.filter(({ path, range }) => path.endsWith("vocab.json") && range !== "bytes=0-0");
  expect(small).toHaveLength(1);
  await hub.close();
});

test("a process that lost its lease while it stood still ends with the right file all the same", async () => {
  const hub = await testHub({ "org/model": { files } });
  const cache = join(root, "still");
  hub.faults.push("trickles");
  const still = downloader(hub.endpoint, cache);
  await still.amid(WEIGHTS);
  const locks = join(cache, ".locks", "models--org--model");
  const lease = join(locks, (await readdir(locks))[0]!);
  const { id } = JSON.parse(await readFile(lease, "utf8"));
  // As one of another machine that has not been heard of for a minute.
  await writeFile(lease, JSON.stringify({ host: "elsewhere", pid: 1, id }));
  await utimes(lease, new Date(), new Date(Date.now() - 60_000));
  const folder = await modelFolder("org/model", { endpoint: hub.endpoint, cache });
  const isRight = async () => (await readFile(join(folder, WEIGHTS))).equals(files[WEIGHTS]);
  expect(await isRight()).toBe(true);
  // Its connection breaks now, and it looks again.
  hub.breakOff();
  expect(await still.ended).toBe(`0 folder ${folder}`);
  expect(await isRight()).toBe(true);
  expect((await readdir(join(cache, "models--org--model", "blobs"))).filter((name) => name.includes("."))).toEqual([]);
  await hub.close();
});

test("a lease is waited for while its holder lives, and taken over when it does not", async () => {
  await mkdir(join(root, "leases"));
  const path = join(root, "leases", "work");
  const options = { settled: async () => false };
  const first = await takeLease(path, options);
  const stop = new AbortController();
  let waited = 0;
  const second = takeLease(path, {
    ...options,
    signal: stop.signal,
    onWait: async () => {
      if (++waited === 2) stop.abort();
    },
  });
  await expect(second).rejects.toMatchObject({ name: "AbortError" });
  await first!.release();
  await expect(stat(path)).rejects.toMatchObject({ code: "ENOENT" });

  // A process that ran here and does not any more.
  const gone = spawn(process.execPath, ["--version"]);
  await new Promise((resolve) => gone.on("close", resolve));
  await writeFile(path, JSON.stringify({ host: hostname(), pid: gone.pid, id: "a" }));
  const third = await takeLease(path, { ...options, onWait: () => Promise.reject(new Error("waited")) });
  // What another one took over is not released.
  await writeFile(path, JSON.stringify({ host: "elsewhere", pid: 1, id: "b" }));
  await third!.release();
  expect(JSON.parse(await readFile(path, "utf8"))).toMatchObject({ id: "b" });
  expect(await takeLease(path, { settled: async () => true })).toBeUndefined();
});
