import type { Adapter } from "../../models/index.ts";
import { lora } from "../../models/index.ts";
import { openAdapter } from "../adapters.ts";
import type { WeightChange } from "../part-sessions.ts";
import type { OpenModelOptions, TextToImageModel } from "./model.ts";
import type { TextToImageRequest } from "./request.ts";
import { partHub } from "./stored-part.ts";

/**
 * Finds what a request's LoRAs change in each part of a model. Files are read once.
 *
 * @param options.hub where LoRAs of the hub are got from
 * @param options.switchable LoRAs (a scale that stands after them is left out) that every network is built with beside its
 *   weights, so that requests can give them other scales without a network being loaded again; all others are added to the
 *   weights
 */
export function adapterLoader(
  { denoiser, textEncoders }: TextToImageModel,
  { hub, switchable: given = [] }: Pick<OpenModelOptions, "hub"> & { readonly switchable?: readonly string[] },
) {
  const switchable = [...new Set(given.map((text) => pathAndScale(text).path))];
  const opened = new Map<string, Promise<Adapter>>();
  const open = (path: string): Promise<Adapter> => {
    const adapter = opened.get(path) ?? openAdapter(path, { hub: partHub(hub) });
    opened.set(path, adapter);
    // A file that could not be read is tried anew next time.
    adapter.catch(() => opened.delete(path));
    return adapter;
  };
  const networks = Object.fromEntries(
    [denoiser, ...textEncoders.map(({ part }) => part)].map(({ name, network }) => [name, network]),
  );
  const matched = async (uses: readonly Use[]) =>
    lora(networks, await Promise.all(uses.map(async ({ path, scale }) => ({ adapter: await open(path), scale }))));

  return async (asked: TextToImageRequest["loras"]): Promise<(part: string) => WeightChange | undefined> => {
    const uses = (asked ?? []).map((use): Use => (typeof use === "string" ? pathAndScale(use) : use));
    const added = uses.filter(({ path }) => !switchable.includes(path));
    if (added.length + switchable.length === 0) return () => undefined;
    const scaleOf = (path: string) =>
      uses.filter((use) => use.path === path).reduce((sum, { scale }) => sum + scale, 0);
    const fused = await matched(added);
    const branches = await matched(switchable.map((path) => ({ path, scale: scaleOf(path) })));
    return (part) => {
      const network = networks[part]!;
      const [adds, switches] = [fused.count(part) > 0, branches.count(part) > 0];
      if (!adds && !switches) return undefined;
      return {
        key: adds ? JSON.stringify(added) : "switchable",
        apply: (bind) => fused.fuse(part, network, bind),
        ...(switches && {
          switches: {
            scales: branches.scales(part),
            around: (build) => branches.branch(part, network, build, { partly: true }),
          },
        }),
      };
    };
  };
}

interface Use {
  readonly path: string;
  readonly scale: number;
}

/** `path:0.8`, or a path alone, which stands for scale 1. */
function pathAndScale(text: string): Use {
  const [, path, scale] = /^(.+):(-?\d+(?:\.\d+)?)$/.exec(text) ?? [];
  return path === undefined ? { path: text, scale: 1 } : { path, scale: Number(scale) };
}
