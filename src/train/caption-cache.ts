import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { readSafetensors, readSafetensorsHeader, writeSafetensors } from "../io/index.ts";

/** What a text encoder that is not trained says of a text. */
export interface EncodedCaption {
  /** [tokens, width]: those of the text where padding is masked, or all that the encoder has positions for. */
  readonly states: HostTensor<"float16">;
  /** [pooledWidth]. */
  readonly pooled?: HostTensor<"float16">;
}

const FORMAT = "allegory-captions-1";

/**
 * Reads the texts that were encoded before; none where there is no file.
 * @throws UserError where the file is something else, or of another encoder
 */
export async function readCaptionCache(
  path: string | undefined,
  fingerprint: string,
): Promise<Map<string, EncodedCaption>> {
  if (path === undefined || !existsSync(path)) return new Map();
  const { metadata } = await readSafetensorsHeader(path);
  if (metadata.format !== FORMAT) {
    throw new UserError(`${path} is no cache of encoded captions.`, { hint: "Name another file.", field: "cache" });
  }
  if (metadata.encoder !== fingerprint) {
    throw new UserError(`${path} holds captions that another text encoder has encoded, or to another length.`, {
      hint: "Name another file, or delete this one.",
      field: "cache",
    });
  }
  const tensors = (await readSafetensors(path)) as Map<string, HostTensor<"float16">>;
  const captions = JSON.parse(metadata.captions ?? "[]") as readonly string[];
  return new Map(
    captions.map((caption, i) => [
      caption,
      { states: tensors.get(`states.${i}`)!, pooled: tensors.get(`pooled.${i}`) },
    ]),
  );
}

/** Writes encoded texts for the next time. */
export async function writeCaptionCache(
  path: string,
  fingerprint: string,
  captions: ReadonlyMap<string, EncodedCaption>,
): Promise<void> {
  const tensors = new Map<string, HostTensor>();
  [...captions.values()].forEach(({ states, pooled }, i) => {
    tensors.set(`states.${i}`, states);
    if (pooled) tensors.set(`pooled.${i}`, pooled);
  });
  await mkdir(dirname(path), { recursive: true });
  const metadata = { format: FORMAT, encoder: fingerprint, captions: JSON.stringify([...captions.keys()]) };
  await writeSafetensors(path, tensors, metadata);
}
