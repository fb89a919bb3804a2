import { stat } from "node:fs/promises";
import { join, posix } from "node:path";
import { UserError } from "../core/errors.ts";
import { type CachedModel, cachedModel, hubCacheFolder, isCommit } from "./hub-cache.ts";
import { connect, type HubModel, NoAnswer } from "./hub-client.ts";
import { download } from "./hub-download.ts";
import { neededFiles } from "./hub-files.ts";
import { type JsonObject, readJsonObject } from "./json-file.ts";

/** How far a download is. */
export interface HubProgress {
  /** The file being downloaded, by its path in the repository. */
  readonly file: string;
  /** Bytes of that file that are there, and its size. */
  readonly received: number;
  readonly size: number;
  /** The same for all files together. */
  readonly totalReceived: number;
  readonly totalSize: number;
}

export interface HubOptions {
  /** Branch, tag or commit; default `main`. */
  readonly revision?: string;
  /** The variant of the weights, such as `fp16`; default those without one, which are also taken of parts that lack it. */
  readonly variant?: string;
  /** Where no part has weights of the variant, those without one are taken; default: they are refused. */
  readonly variantOptional?: boolean;
  /** Nothing is downloaded: only what the cache has is used. Default: the environment variable `HF_HUB_OFFLINE`. */
  readonly offline?: boolean;
  /** For models that are not public. Default: `HF_TOKEN`, or what `hf auth login` stored. */
  readonly token?: string;
  /** The cache's folder. Default: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, as in Python. */
  readonly cache?: string;
  /** The hub's address. Default: `HF_ENDPOINT`, or the public one. */
  readonly endpoint?: string;
  readonly onProgress?: (progress: HubProgress) => void;
  /** Told when the hub cannot be reached and an earlier download is used instead. */
  readonly onWarning?: (warning: string) => void;
  readonly signal?: AbortSignal;
}

/** A place on the hub: a model, or a file of it. */
export interface HubPlace {
  readonly id: string;
  readonly file?: string;
}

/** Reads `org/name` and `org/name/file.safetensors`; undefined for other texts. */
export function hubPlace(text: string): HubPlace | undefined {
  const [, id, file] = /^(\w[\w.-]*\/\w[\w.-]*)(?:\/(.+\.safetensors))?$/.exec(text) ?? [];
  // Rather a file in a folder of this machine.
  return id === undefined || id.endsWith(".safetensors") ? undefined : { id, file };
}

/**
 * The folder of a model: the given one if it is a folder, or the snapshot of `org/name` from the hub, downloaded into the
 * cache that Python uses, too, as far as it is not there yet. Only what is needed is downloaded (see `neededFiles`). Files are
 * taken, too: a given one, or `org/name/file.safetensors` of the hub.
 *
 * @throws UserError when there is no such folder, model or revision, access is refused, or (offline) the cache lacks it
 */
export async function modelFolder(idOrFolder: string, options: HubOptions = {}): Promise<string> {
  const kind = await stat(idOrFolder).catch(() => undefined);
  if (kind) {
    if (options.revision !== undefined) {
      throw new UserError(`${idOrFolder} is a folder of this machine; it has no revision ${options.revision}.`, {
        field: "revision",
      });
    }
    return idOrFolder;
  }
  const place = hubPlace(idOrFolder);
  if (!place) {
    throw new UserError(`There is no ${idOrFolder.endsWith(".safetensors") ? "file" : "folder"} ${idOrFolder}.`, {
      hint: "A model of the hub is given as org/name.",
      field: "model",
    });
  }
  const { id, file } = place;
  if (file !== undefined) return hubFile(id, file, options);
  const { variant, variantOptional } = options;
  return snapshot(id, id, options, (paths, index, isStrict) => {
    const plain = isStrict ? "never" : variantOptional ? "all" : "parts";
    return neededFiles(paths, index, { what: id, variant, plain });
  });
}

/** One file of a model on the hub, such as a LoRA or a single-file checkpoint: its path in the snapshot. */
export async function hubFile(id: string, path: string, options: HubOptions = {}): Promise<string> {
  return hubAddition({ id, file: path }, [], options);
}

/**
 * The file of something on the hub that belongs beside a model, such as a LoRA: the file given, or the first of `names` that
 * there is, or the only safetensors file. PEFT's configuration beside it is downloaded, too.
 */
export async function hubAddition(
  { id, file }: HubPlace,
  names: readonly string[],
  options: HubOptions = {},
): Promise<string> {
  if (hubPlace(id)?.id !== id) {
    throw new UserError(`${id} is no model of the hub; org/name is needed.`, { field: "model" });
  }
  let found = "";
  const folder = await snapshot(id, file === undefined ? id : `${id}/${file}`, options, (paths) => {
    found = additionIn(paths, id, file === undefined ? names : [file], file === undefined);
    const config = posix.join(posix.dirname(found), "adapter_config.json");
    return paths.includes(config) ? [found, config] : [found];
  });
  return join(folder, found);
}

function additionIn(paths: readonly string[], id: string, names: readonly string[], orOnly: boolean): string {
  const named = names.find((name) => paths.includes(name));
  if (named !== undefined) return named;
  const all = paths.filter((path) => path.endsWith(".safetensors"));
  if (orOnly && all.length === 1) return all[0]!;
  const hint =
    all.length > 0
      ? `Name one of its files: ${all
          .slice(0, 12)
          .map((path) => `${id}/${path}`)
          .join(", ")}.`
      : `It has ${paths.slice(0, 12).join(", ")}.`;
  const lacks = names.length === 1 ? `has no file ${names[0]}` : `has none of the files ${names.join(", ")}`;
  throw new UserError(`${id} ${lacks}${orOnly && all.length > 1 ? ` but ${all.length} others` : ""}.`, {
    hint,
    field: "model",
  });
}

/** The files that are needed of those there are. With `isStrict`, others in their place do not do. */
type Choose = (paths: readonly string[], index: JsonObject | undefined, isStrict?: boolean) => string[];

/** @param given what messages call it when there is none */
async function snapshot(id: string, given: string, options: HubOptions, choose: Choose): Promise<string> {
  const { revision = "main", offline = isOffline(), cache = hubCacheFolder() } = options;
  if (!/^[\w][\w./-]*$/.test(revision) || revision.includes("..")) {
    throw new UserError(`${JSON.stringify(revision)} is no revision; a branch, tag or commit is needed.`, {
      field: "revision",
    });
  }
  const model = cachedModel(cache, id);
  // What a commit holds never changes.
  if (offline || isCommit(revision)) {
    // The hub may have what the cache does not.
    const strict: Choose = (paths, index) => choose(paths, index, !offline);
    const found = await inCache(model, revision, strict).catch((error: unknown) => error as UserError);
    if (typeof found === "string") return found;
    if (offline) {
      throw new UserError(
        `${id} (revision ${revision}) is not in the cache ${cache}${found ? `, or not all of it: ${found.message}` : "."}`,
        { hint: "Offline mode is on (the option offline, or HF_HUB_OFFLINE): nothing was downloaded." },
      );
    }
  }
  try {
    return await fromHub({ id, revision, given }, model, options, choose);
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    const found = await inCache(model, revision, choose).catch(() => undefined);
    if (!found) {
      throw new UserError(`${error.message}, and ${id} is not in the cache ${cache}.`, {
        hint: `${error.hint} There is no ${given === id ? "folder" : "file"} ${given} here either.`,
        cause: error,
      });
    }
    options.onWarning?.(`${error.message}; taken is what was downloaded of ${id} before.`);
    return found;
  }
}

function isOffline(): boolean {
  return /^(1|on|yes|true)$/i.test(process.env.HF_HUB_OFFLINE ?? "");
}

/** The snapshot in the cache, if there is one and it is complete. */
async function inCache(model: CachedModel, revision: string, choose: Choose): Promise<string | undefined> {
  const commit = await model.commitOf(revision);
  const paths = commit ? await model.files(commit) : [];
  if (!commit || paths.length === 0) return undefined;
  const index = paths.includes("model_index.json")
    ? await readJsonObject(join(model.snapshot(commit), "model_index.json"))
    : undefined;
  choose(paths, index);
  return model.snapshot(commit);
}

async function fromHub(wanted: HubModel, model: CachedModel, options: HubOptions, choose: Choose): Promise<string> {
  const hub = await connect(wanted, options);
  const { commit, files } = hub;
  const take = async (paths: readonly string[]) => {
    const entries = paths.map((path) => files.get(path)!);
    const totalSize = entries.reduce((sum, { size }) => sum + size, 0);
    let before = 0;
    for (const entry of entries) {
      const report = throttled((received) =>
        options.onProgress?.({
          file: entry.path,
          received,
          size: entry.size,
          totalReceived: before + received,
          totalSize,
        }),
      );
      const file = hub.download(entry);
      const place = { target: model.blob(file.hash), lease: model.lease(file.hash) };
      await download(file, place, (bytes) => report(bytes, bytes === entry.size));
      await model.place(file.hash, commit, entry.path);
      before += entry.size;
    }
  };
  let index: JsonObject | undefined;
  if (files.has("model_index.json")) {
    await take(["model_index.json"]);
    index = await readJsonObject(join(model.snapshot(commit), "model_index.json"));
  }
  await take(choose([...files.keys()], index));
  // Only now, so that offline a branch means a commit that is there as a whole.
  await model.remember(wanted.revision, commit);
  return model.snapshot(commit);
}

/** Calls at most ten times a second, and the last time. */
function throttled(call: (value: number) => void): (value: number, last: boolean) => void {
  let next = 0;
  return (value, last) => {
    if (!last && performance.now() < next) return;
    next = performance.now() + 100;
    call(value);
  };
}
