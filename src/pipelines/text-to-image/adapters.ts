import type { Adapter } from "../../models/index.ts";
import { lora } from "../../models/index.ts";
import { openAdapter } from "../adapters.ts";
import type { WeightChange } from "../part-sessions.ts";
import type { TextToImageModel } from "./model.ts";
import type { TextToImageRequest } from "./request.ts";

/** Finds what a request's LoRAs change in each part of a model. Files are read once. */
export function adapterLoader({ denoiser, textEncoders }: TextToImageModel) {
  const opened = new Map<string, Promise<Adapter>>();
  const open = (path: string): Promise<Adapter> => {
    const adapter = opened.get(path) ?? openAdapter(path);
    opened.set(path, adapter);
    // A file that could not be read is tried anew next time.
    adapter.catch(() => opened.delete(path));
    return adapter;
  };
  const networks = Object.fromEntries(
    [denoiser, ...textEncoders.map(({ part }) => part)].map(({ name, network }) => [name, network]),
  );

  return async (given: TextToImageRequest["loras"]): Promise<(part: string) => WeightChange | undefined> => {
    const uses = (given ?? []).map((use) => (typeof use === "string" ? pathAndScale(use) : use));
    if (uses.length === 0) return () => undefined;
    const adapters = await Promise.all(uses.map(async ({ path, scale }) => ({ adapter: await open(path), scale })));
    const applied = lora(networks, adapters);
    const key = JSON.stringify(uses);
    return (part) =>
      applied.count(part) === 0 ? undefined : { key, apply: (bind) => applied.fuse(part, networks[part]!, bind) };
  };
}

/** `path:0.8`, or a path alone, which stands for scale 1. */
function pathAndScale(text: string): { readonly path: string; readonly scale: number } {
  const [, path, scale] = /^(.+):(-?\d+(?:\.\d+)?)$/.exec(text) ?? [];
  return path === undefined ? { path: text, scale: 1 } : { path, scale: Number(scale) };
}
