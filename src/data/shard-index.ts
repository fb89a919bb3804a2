import { createHash } from "node:crypto";
import { posix } from "node:path";
import { messageOf } from "../core/errors.ts";
import { readJsonObject, writeJsonObject } from "../io/json-file.ts";
import { captionLines, captionsOfFields } from "./caption-text.ts";
import type { FoundFile } from "./find-images.ts";
import { type TarMember, tarMembers } from "./tar-members.ts";
import { utf8Text } from "./text-file.ts";

/** What a shard says of one picture. */
export interface Sample {
  readonly key: string;
  /** Possibly none. */
  readonly captions: readonly string[];
  /** The number in its `.cls`. */
  readonly label?: number;
}

/** Everything in a shard but the pictures. */
export interface ShardIndex {
  /** One for each picture, in the order of the shard. */
  readonly samples: readonly Sample[];
  /** What is wrong, each with the key. */
  readonly problems: readonly string[];
  /** How many members of other kinds there are, by extension. */
  readonly others: Readonly<Record<string, number>>;
}

const PICTURE = /^(?:png|jpe?g|webp|avif|gif)$/;

/** Changes whenever the same shard would give another index. */
const INDEX_VERSION = 1;

/**
 * Reads what a WebDataset shard holds besides pictures. Members belong together that follow each other and have the same
 * path up to the first dot of the file's name: `0001.jpg`, `0001.txt`, `0001.json`, `0001.cls`.
 *
 * @throws UserError when the shard is truncated or damaged
 */
export async function shardIndex(path: string, signal?: AbortSignal): Promise<ShardIndex> {
  const samples: Sample[] = [];
  const problems: string[] = [];
  const others: Record<string, number> = {};
  const finished = new Set<string>();
  let open: Parts | undefined;
  const finish = () => {
    if (!open) return;
    finished.add(open.key);
    const { sample, problem } = sampleOf(open);
    if (sample) samples.push(sample);
    if (problem) problems.push(`${open.key}: ${problem}`);
    open = undefined;
  };
  for await (const member of tarMembers(path)) {
    signal?.throwIfAborted();
    const name = partsOfName(member.name);
    if (!name) continue;
    if (open?.key !== name.key) {
      finish();
      open = { key: name.key, pictures: [], problems: [] };
      if (finished.has(name.key)) open.problems.push("its members do not lie together");
    }
    if (!(await take(open, name.extension, member))) others[name.extension] = (others[name.extension] ?? 0) + 1;
  }
  finish();
  return { samples, problems, others };
}

/** {@link shardIndex}, kept in a file of the folder `cache` for the next time. */
export async function cachedShardIndex(
  shard: FoundFile,
  cache: string | undefined,
  signal?: AbortSignal,
): Promise<ShardIndex> {
  if (cache === undefined) return shardIndex(shard.absolute, signal);
  const { absolute, bytes, modified } = shard;
  const hash = createHash("sha256").update(JSON.stringify([INDEX_VERSION, absolute, bytes, modified]));
  const file = posix.join(cache, `shard-${hash.digest("hex").slice(0, 32)}.json`);
  const kept = await readJsonObject(file).catch(() => undefined);
  if (kept) return kept as unknown as ShardIndex;
  const index = await shardIndex(absolute, signal);
  await writeJsonObject(file, { ...index });
  return index;
}

/** The pictures of a shard, in the order of its samples. */
export async function* shardPictures(shard: FoundFile): AsyncGenerator<{ name: string; source: Uint8Array }> {
  for await (const member of tarMembers(shard.absolute)) {
    const name = partsOfName(member.name);
    if (name && PICTURE.test(name.extension)) {
      yield { name: `${shard.path}: ${member.name}`, source: await member.bytes() };
    }
  }
}

/** The members of a sample, as far as they were read. */
interface Parts {
  readonly key: string;
  readonly pictures: string[];
  readonly problems: string[];
  text?: string;
  json?: string;
  cls?: string;
}

/** Key and lower-case extension; undefined for hidden files and names without an extension. */
function partsOfName(name: string): { key: string; extension: string } | undefined {
  const base = posix.basename(name);
  const dot = base.indexOf(".");
  if (dot <= 0) return undefined;
  return { key: posix.join(posix.dirname(name), base.slice(0, dot)), extension: base.slice(dot + 1).toLowerCase() };
}

/** Adds a member to its sample; false for one of a kind that is not read. */
async function take(parts: Parts, extension: string, member: TarMember): Promise<boolean> {
  if (PICTURE.test(extension)) {
    parts.pictures.push(extension);
    return true;
  }
  const part = extension === "txt" ? "text" : extension === "json" || extension === "cls" ? extension : undefined;
  if (part === undefined) return false;
  if (parts[part] !== undefined) parts.problems.push(`two .${extension}`);
  try {
    parts[part] = utf8Text(await member.bytes(), `.${extension}`);
  } catch (error) {
    parts.problems.push(messageOf(error).split("\n")[0]!);
  }
  return true;
}

function sampleOf({ key, pictures, problems, text, json, cls }: Parts): { sample?: Sample; problem?: string } {
  const found = [...problems];
  if (pictures.length !== 1) {
    const members = Object.entries({ txt: text, json, cls }).flatMap(([end, it]) =>
      it === undefined ? [] : [`.${end}`],
    );
    found.push(
      pictures.length === 0
        ? `no picture${members.length > 0 ? ` (only ${members.join(", ")})` : ""}`
        : `${pictures.length} pictures (${pictures.map((end) => `.${end}`).join(", ")})`,
    );
  }
  let captions = text === undefined ? [] : captionLines(text);
  try {
    if (json !== undefined) captions = [...new Set([...captions, ...captionsOfFields(fieldsOf(json))])];
  } catch (error) {
    found.push(`.json: ${messageOf(error)}`);
  }
  const label = cls === undefined ? undefined : Number(/^\s*(\d{1,9})\s*$/.exec(cls)?.[1] ?? Number.NaN);
  if (Number.isNaN(label)) found.push(`.cls is ${JSON.stringify(cls!.slice(0, 40))}, not the number of a class`);
  return found.length > 0
    ? { problem: found.join("; ") }
    : { sample: { key, captions, ...(label === undefined ? {} : { label }) } };
}

function fieldsOf(json: string): Readonly<Record<string, unknown>> {
  const value: unknown = JSON.parse(json);
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("not a JSON object");
  return value as Readonly<Record<string, unknown>>;
}
