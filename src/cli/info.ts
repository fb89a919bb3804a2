import type { Command } from "commander";
import { decodeImage } from "../io/index.ts";
import { PARAMETERS_KEY, REQUEST_KEY, readPictureNotes } from "../pipelines/index.ts";
import type { Console } from "./console.ts";
import { textsOf } from "./picture-notes.ts";

/** `allegory info`: how a picture was made. */
export function infoCommand(program: Command, io: Console): void {
  program
    .command("info")
    .summary("show how a picture was made")
    .description("Show what a picture's file says of how it was made: the request, and notes of other programs.")
    .argument("<picture>", "PNG, JPEG or WebP")
    .option("--json", "print it as JSON")
    .action(async (path: string, { json }: { readonly json?: boolean }) => {
      const { width, height } = await decodeImage(path);
      const texts = await textsOf(path);
      const notes = readPictureNotes(texts);
      const others = Object.entries(texts).filter(([name]) => name !== REQUEST_KEY && name !== PARAMETERS_KEY);
      if (json) {
        io.json({ file: path, width, height, ...notes, notes: texts });
        return;
      }
      io.print(`${path}: ${width}×${height}`);
      if (texts[PARAMETERS_KEY] !== undefined) io.print(texts[PARAMETERS_KEY]);
      else if (texts[REQUEST_KEY] !== undefined) io.print(`${REQUEST_KEY}: ${texts[REQUEST_KEY]}`);
      for (const [name, text] of others) io.print(`${name}: ${text}`);
      if (Object.keys(texts).length === 0) io.print("It says nothing of how it was made.");
      else if (notes) io.print(`Draw it again: allegory generate --like ${JSON.stringify(path)}`);
    });
}
