import { randomUUID } from "node:crypto";
import { copyFile, link, mkdir, readdir, readFile, readlink, rename, stat, symlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { writeFileAtomically } from "./atomic-file.ts";

// The cache of Hugging Face's Python library, shared with it: models--org--name/ with blobs/ (the files' contents by their
// hash), snapshots/COMMIT/ (links to them under their own names) and refs/ (the commit of each branch).

const COMMIT = /^[0-9a-f]{40}$/;

/** Whether a revision is a commit, not a branch or tag. */
export const isCommit = (revision: string) => COMMIT.test(revision);

/** `HF_HOME`, or where it is by default. */
export function hubHome(): string {
  const { HF_HOME, XDG_CACHE_HOME } = process.env;
  return HF_HOME || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
}

/** The cache's folder: `HF_HUB_CACHE`, or `hub` in `HF_HOME`. */
export function hubCacheFolder(): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE } = process.env;
  return HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE || join(hubHome(), "hub");
}

/** A model's part of the cache. */
export interface CachedModel {
  /** The commit that a branch or tag was at when it was last looked up. */
  commitOf(revision: string): Promise<string | undefined>;
  remember(revision: string, commit: string): Promise<void>;
  /** The folder of a commit's files. */
  snapshot(commit: string): string;
  /** The files that a snapshot has, by paths with slashes; links whose target is missing are no files. */
  files(commit: string): Promise<string[]>;
  blob(hash: string): string;
  /** A file by which processes agree on who downloads a blob, beside Python's own locks. */
  lease(hash: string): string;
  /** Makes a finished blob a file of a snapshot. */
  place(hash: string, commit: string, path: string): Promise<void>;
}

/** The part of a cache that belongs to a model `org/name`. */
export function cachedModel(cache: string, id: string): CachedModel {
  const folder = `models--${id.replace("/", "--")}`;
  const root = join(cache, folder);
  const blob = (hash: string) => join(root, "blobs", hash);
  const snapshot = (commit: string) => join(root, "snapshots", commit);
  return {
    async commitOf(revision) {
      if (isCommit(revision)) return revision;
      const text = await readFile(join(root, "refs", revision), "utf8").catch(() => "");
      return isCommit(text.trim()) ? text.trim() : undefined;
    },
    async remember(revision, commit) {
      if (revision === commit) return;
      const file = join(root, "refs", revision);
      if ((await readFile(file, "utf8").catch(() => "")) !== commit) await writeFileAtomically(file, commit);
    },
    snapshot,
    async files(commit) {
      const all = snapshot(commit);
      const entries = await readdir(all, { recursive: true }).catch(() => []);
      const found: string[] = [];
      for (const entry of entries) {
        const kind = await stat(join(all, entry)).catch(() => undefined);
        if (kind?.isFile()) found.push(entry.replaceAll("\\", "/"));
      }
      return found;
    },
    blob,
    lease: (hash) => join(cache, ".locks", folder, `${hash}.allegory`),
    async place(hash, commit, path) {
      const target = join(snapshot(commit), path);
      const content = relative(dirname(target), blob(hash));
      // A cache that is complete may be one that cannot be written to.
      if ((await readlink(target).catch(() => undefined)) === content) return;
      await mkdir(dirname(target), { recursive: true });
      const temporary = `${target}.${randomUUID()}.link`;
      // Windows without developer mode knows no links for users: a second name, or a copy.
      await symlink(content, temporary)
        .catch(() => link(blob(hash), temporary))
        .catch(() => copyFile(blob(hash), temporary));
      await rename(temporary, target);
    },
  };
}
