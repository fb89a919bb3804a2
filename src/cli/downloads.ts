import type { HubOptions } from "../io/index.ts";
import type { Console } from "./console.ts";
import { bar } from "./progress-line.ts";

/** Opens a model, with a line of progress where it is downloaded. */
export async function withDownloads<T>(
  { io, signal, revision }: { readonly io: Console; readonly signal: AbortSignal; readonly revision?: string },
  open: (hub: HubOptions) => Promise<T>,
): Promise<T> {
  const progress = io.progress();
  try {
    return await open({
      ...{ revision, signal, onWarning: io.remark },
      onProgress: ({ file, totalReceived, totalSize }) =>
        progress.update(`${bar(totalReceived / totalSize)} downloading ${file}`),
    });
  } finally {
    progress.clear();
  }
}
