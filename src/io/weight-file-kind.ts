import { UserError } from "../core/errors.ts";

const PICKLE_REASON =
  "Pickle files can run any program while they are read, so they are not opened. Take the model's .safetensors file, or convert this one with the safetensors package in Python.";

/** Extensions that PyTorch's pickled weights go by. */
const PICKLE_EXTENSION = /\.(bin|ckpt|pt|pth|pkl|pickle)$/i;

/**
 * Says what a file that is not safetensors seems to be, from its first bytes (64 are enough) and its name.
 *
 * @returns the error to throw: it names the file and what was found in it
 */
export function notSafetensors(source: string, head: Uint8Array, fileSize: number, problem: string): UserError {
  const text = Array.from(head.subarray(0, 256), (byte) => String.fromCharCode(byte)).join("");
  const start = text.replace(/^(?:\u00ef\u00bb\u00bf)?\s+/, "").toLowerCase();
  if (fileSize === 0) {
    return new UserError(`${source} is empty (0 bytes).`, { hint: "Download or write it again." });
  }
  if (text.startsWith("version https://git-lfs")) {
    const size = /size (\d+)/.exec(text)?.[1];
    return new UserError(
      `${source} is a git-lfs pointer, not the weights: the ${size ? `${size} bytes` : "file"} it stands for were not downloaded.`,
      { hint: "Run `git lfs pull` in the model's repository, or download the file itself." },
    );
  }
  if (/^(<!doctype|<html|<head|<\?xml)/.test(start)) {
    return new UserError(`${source} is an HTML page, not weights: a download saved an error or log-in page.`, {
      hint: "Download the file again (on the hub, the address with /resolve/, not /blob/).",
    });
  }
  const zip = text.startsWith("PK\u0003\u0004");
  // Protocol 2 to 5: the opcode 0x80 and the protocol's number. A safetensors header of 640 or 896 bytes starts the
  // same way, so this is asked only after the header was found wrong.
  const pickle = head[0] === 0x80 && head[1]! >= 2 && head[1]! <= 5;
  if (zip || pickle) {
    return new UserError(
      `${source} is a ${zip ? "zip archive as PyTorch writes for pickled weights" : "Python pickle"}, not safetensors.`,
      { hint: PICKLE_REASON },
    );
  }
  if (PICKLE_EXTENSION.test(source)) {
    return new UserError(`${source} is not safetensors; its name is that of a pickled PyTorch file.`, {
      hint: PICKLE_REASON,
    });
  }
  if (start.startsWith('{"') || start.startsWith("[")) {
    return new UserError(`${source} is a JSON document, not weights.`, {
      hint: "Its text may say why the download failed; download the file again.",
    });
  }
  if (text.startsWith("GGUF")) return new UserError(`${source} is a GGUF file; only safetensors weights are read.`);
  if (text.startsWith("\u0089HDF"))
    return new UserError(`${source} is an HDF5 file; only safetensors weights are read.`);
  return new UserError(`${source} is not a safetensors file, or is damaged: ${problem}.`, {
    hint: "Download or write it again.",
  });
}
