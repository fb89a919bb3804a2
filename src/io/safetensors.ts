import { type FileHandle, open, stat } from "node:fs/promises";
import { messageOf, UserError } from "../core/errors.ts";
import { arrayFor, type HostTensor, sizeOf } from "../core/host-tensor.ts";
import { writeAtomically } from "./atomic-file.ts";
import {
  bytesOf,
  headerLength,
  layOut,
  parseHeader,
  type SafetensorsHeader,
  type TensorDescription,
  type TensorEntry,
} from "./safetensors-format.ts";

/** A validated header and the file it was read from; `offset`s of its tensors count from the start of that file. */
export interface SafetensorsFile extends SafetensorsHeader {
  readonly path: string;
}

/** One read call takes at most this much; larger ones fail on some systems. */
const CHUNK_BYTES = 256 * 2 ** 20;

/**
 * Reads and validates the header of a safetensors file; the tensors' data stay on disk.
 *
 * @throws UserError when the file cannot be read, is something else (a git-lfs pointer, an HTML page, a pickle …), is
 *   truncated or damaged
 */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsFile> {
  return withFile(path, async (file) => ({ ...(await headerOf(file, path)), path }));
}

/** Reads one tensor of a file whose header was read before. */
export async function readTensor(path: string, entry: TensorEntry): Promise<HostTensor> {
  return withFile(path, (file) => readEntry(file, path, entry));
}

/**
 * Reads every tensor of a safetensors file, or those in `names`.
 *
 * @throws UserError as {@link readSafetensorsHeader}, and for names that the file does not have
 */
export async function readSafetensors(path: string, names?: Iterable<string>): Promise<Map<string, HostTensor>> {
  return withFile(path, async (file) => {
    const { tensors } = await headerOf(file, path);
    const wanted = names === undefined ? [...tensors.keys()] : [...names];
    const missing = wanted.filter((name) => !tensors.has(name));
    if (missing.length > 0) {
      throw new UserError(`${path} has no tensor ${missing.join(", ")}.`, {
        hint: `It has ${tensors.size} tensors; \`allegory inspect\` lists them.`,
      });
    }
    const result = new Map<string, HostTensor>();
    for (const name of wanted) result.set(name, await readEntry(file, path, tensors.get(name)!));
    return result;
  });
}

/** A tensor whose data are read only when they are needed. */
export interface LazyTensor extends TensorDescription {
  read(): Promise<HostTensor>;
}

/**
 * Writes tensors to a safetensors file laid out as the official writer does; a file already there is replaced in one
 * step once the new one is complete and synced.
 *
 * @param tensors by name; lazy ones are read one at a time, so that a large model is never in memory as a whole
 * @param metadata strings kept in the header; Python's libraries expect `{ format: "pt" }` in model files
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor | LazyTensor>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { head, order } = layOut(tensors, metadata);
  await writeAtomically(path, async (append) => {
    await append(head);
    for (const [name, tensor] of order) {
      const loaded = "read" in tensor ? await tensor.read() : tensor;
      if (loaded.dtype !== tensor.dtype || loaded.data.length !== sizeOf(tensor.shape)) {
        throw new Error(`allegory bug: tensor ${name} was read with another dtype or size than announced`);
      }
      await append(bytesOf(loaded));
    }
  });
}

async function headerOf(file: FileHandle, path: string): Promise<SafetensorsHeader> {
  const { size } = await file.stat();
  const head = await readBytes(file, path, 0, Math.min(256, size));
  const length = headerLength(head, size, path);
  return parseHeader(await readBytes(file, path, 8, length), size, path);
}

async function readEntry(file: FileHandle, path: string, entry: TensorEntry): Promise<HostTensor> {
  const data = arrayFor(entry.dtype, sizeOf(entry.shape));
  const tensor: HostTensor = { dtype: entry.dtype, shape: entry.shape, data };
  await readInto(file, path, entry.offset, bytesOf(tensor));
  return tensor;
}

async function readBytes(file: FileHandle, path: string, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await readInto(file, path, offset, bytes);
  return bytes;
}

async function readInto(file: FileHandle, path: string, offset: number, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesRead } = await file.read(bytes, at, Math.min(CHUNK_BYTES, bytes.length - at), offset + at);
    if (bytesRead === 0) {
      throw new UserError(
        `${path} ended at ${offset + at} bytes while it was being read; it became shorter meanwhile.`,
      );
    }
    at += bytesRead;
  }
}

async function withFile<T>(path: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  let file: FileHandle;
  try {
    const kind = await stat(path);
    // A pipe would be waited for, a device has no end.
    if (!kind.isFile() && !kind.isDirectory()) {
      throw new UserError(`${path} is neither a file nor a folder; a safetensors file is needed.`);
    }
    file = await open(path, "r");
  } catch (error) {
    throw error instanceof UserError ? error : cannotOpen(path, error);
  }
  try {
    return await use(file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EISDIR") throw cannotOpen(path, error);
    throw error;
  } finally {
    await file.close();
  }
}

function cannotOpen(path: string, error: unknown): UserError {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === "ENOENT") return new UserError(`There is no file ${path}.`, { cause: error });
  if (code === "EISDIR") return new UserError(`${path} is a folder; a safetensors file is needed.`, { cause: error });
  return new UserError(`${path} cannot be read: ${messageOf(error)}.`, { cause: error });
}
