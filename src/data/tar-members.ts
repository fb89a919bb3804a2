import { createReadStream } from "node:fs";
import { pipeline, type Readable } from "node:stream";
import { ReadableStream } from "node:stream/web";
import { createGunzip } from "node:zlib";
import { createTarDecoder } from "modern-tar";
import { messageOf, UserError } from "../core/errors.ts";

/** A file in a tar archive. */
export interface TarMember {
  /** Its path in the archive. */
  readonly name: string;
  /** Its content; to be asked for, if at all, before the next member is. */
  bytes(): Promise<Uint8Array>;
}

/** A tar ends with two blocks of 512 zeros. */
const END = 1024;

/**
 * The files of a tar archive, gzipped where its name says so, in their order. The archive is streamed: in memory is what
 * is being read, and the content of the one member that is asked for.
 *
 * @throws UserError naming the archive, and the last member that was found, where it is truncated or damaged
 */
export async function* tarMembers(path: string): AsyncGenerator<TarMember> {
  let last = "no member was found";
  try {
    const archive: ReadableStream<Uint8Array> = ReadableStream.from<Uint8Array>(contentOf(path));
    // The web streams of Node and of the DOM are one class that TypeScript knows by two names.
    const decoder = createTarDecoder({ strict: true }) as unknown as Decoder;
    for await (const { header, body } of archive.pipeThrough(endChecked()).pipeThrough(decoder)) {
      last = `the last member found is ${header.name}`;
      let asked = false;
      if (header.type === "file") {
        yield {
          name: header.name.replace(/^(?:\.\/)+/, ""),
          async bytes() {
            asked = true;
            return collected(body, header.size);
          },
        };
      }
      // Read to its end, not cancelled: with modern-tar 0.8 cancelling a body whose end has come skips the next one.
      if (!asked) for await (const _ of body);
    }
  } catch (error) {
    if (error instanceof UserError || (error as Error)?.name === "AbortError") throw error;
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    throw new UserError(
      missing ? `There is no file ${path}.` : `${path} is damaged or no tar; ${last}: ${messageOf(error)}`,
      { ...(missing ? {} : { hint: "Get the shard again, or leave it out." }), field: "data", cause: error },
    );
  }
}

interface Decoder {
  readonly readable: ReadableStream<{
    readonly header: { readonly name: string; readonly size: number; readonly type?: string };
    readonly body: ReadableStream<Uint8Array>;
  }>;
  readonly writable: WritableStream<Uint8Array>;
}

function contentOf(path: string): Readable {
  const file = createReadStream(path, { highWaterMark: 2 ** 18 });
  // The callback keeps a failure from being thrown where nobody waits; who reads the result is told of it.
  return /gz$/i.test(path) ? pipeline(file, createGunzip(), () => {}) : file;
}

/** Passes an archive on and refuses one that stops before its end is marked, which happens between two members too. */
function endChecked(): TransformStream<Uint8Array, Uint8Array> {
  let zeros = 0;
  return new TransformStream({
    transform(chunk, controller) {
      let last = chunk.length;
      while (last > 0 && chunk.length - last < END && chunk[last - 1] === 0) last--;
      zeros = last === 0 ? zeros + chunk.length : chunk.length - last;
      controller.enqueue(chunk);
    },
    flush() {
      if (zeros < END) throw new Error("it is truncated: the zeros that end a tar are missing.");
    },
  });
}

async function collected(body: ReadableStream<Uint8Array>, size: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(size);
  let at = 0;
  for await (const chunk of body) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
