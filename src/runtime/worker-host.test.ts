import { describe, expect, test } from "vitest";
import { startWorker } from "./worker-host.ts";

/** A worker that runs `source` for each message. */
const script = (source: string) =>
  new URL(
    `data:text/javascript,${encodeURIComponent(`
      import { parentPort } from "node:worker_threads";
      parentPort.on("message", (request) => { ${source} });
    `)}`,
  );

describe("a worker", () => {
  test("that crashes rejects every call still open, and later ones", async () => {
    const host = startWorker(script(`if (request.id === 1) throw new Error("segment lost")`), "unet");
    const calls = [host.call("read", { input: "a" }), host.call("read", { input: "b" }), host.call("profile", {})];
    const results = await Promise.allSettled(calls);
    expect(results.map((result) => result.status === "rejected" && result.reason.message)).toEqual(
      Array(3).fill("unet: its thread crashed: segment lost"),
    );
    await expect(host.call("profile", {})).rejects.toThrow("unet: its thread crashed: segment lost");
    await host.terminate();
  });

  test("that ends by itself rejects every call still open", async () => {
    const host = startWorker(script("process.exit(3)"), "vae");
    await expect(host.call("profile", {})).rejects.toThrow("vae: its thread has ended (exit code 3)");
  });

  test("that is ended rejects every call still open", async () => {
    const host = startWorker(script(""), "vae");
    const call = expect(host.call("profile", {})).rejects.toThrow("vae is closed");
    await host.terminate();
    await call;
  });

  test("that cannot start rejects the first call", async () => {
    const host = startWorker(new URL("./no-such-worker.mjs", import.meta.url), "vae");
    await expect(host.call("profile", {})).rejects.toThrow("vae: its thread crashed: Cannot find module");
  });

  test("answers each call with its own reply, errors included", async () => {
    const host = startWorker(
      script(`
        const { id, body } = request;
        if (body.input === "bad") parentPort.postMessage({ id, error: { message: "bad input" } });
        else setTimeout(() => parentPort.postMessage({ id, body: body.input }), id === 0 ? 50 : 0);
      `),
      "vae",
    );
    const calls = await Promise.allSettled(["slow", "bad", "fast"].map((input) => host.call("read", { input })));
    expect(calls).toMatchObject([{ value: "slow" }, { reason: new Error("bad input") }, { value: "fast" }]);
    await host.terminate();
  });

  test("is called by its last name", async () => {
    const host = startWorker(script("process.exit(3)"), "vae");
    host.rename("unet");
    await expect(host.call("profile", {})).rejects.toThrow("unet: its thread has ended (exit code 3)");
    expect(host.alive).toBe(false);
  });

  test("keeps a call that cannot be sent from staying open", async () => {
    const host = startWorker(script(""), "vae");
    await expect(host.call("profile", { callback: () => {} })).rejects.toThrow("could not be cloned");
    await host.terminate();
  });
});
