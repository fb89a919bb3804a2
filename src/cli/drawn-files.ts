import { mkdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { UserError } from "../core/errors.ts";
import { encodeImage, writeFileAtomically } from "../io/index.ts";
import {
  type OpenedWith,
  type PictureRecord,
  pictureNotes,
  type ResolvedRequest,
  type TextToImagePicture,
  type TextToImageRequestInput,
} from "../pipelines/index.ts";
import { checkNoFolder, isPictureFile, pictureFormat } from "./picture-files.ts";

/** Where drawn pictures are to be written. */
export interface DrawnPaths {
  /** A picture's file, or a folder for a file each; undefined: no file for each. */
  readonly out: string | undefined;
  /** One file for all of them. */
  readonly grid: string | undefined;
  /** A folder for where tokens were looked at. */
  readonly attention: string | undefined;
}

/** Says what cannot be written before anything is computed. */
export async function checkDrawnPaths({ out, grid, attention }: DrawnPaths, pictures: number): Promise<void> {
  if (attention !== undefined) await checkNoFile(attention, "a folder");
  if (grid !== undefined) {
    pictureFormat(grid);
    await checkNoFolder(grid);
  }
  if (out === undefined) return;
  if (isPictureFile(out)) {
    await checkNoFolder(out);
    if (pictures === 1) return;
    throw new UserError(`${pictures} pictures cannot be written to one file, ${out}.`, {
      hint: "Give a folder; --grid writes all into one file.",
      field: "out",
    });
  }
  if (/\.\w{2,5}$/.test(basename(out))) pictureFormat(out);
  await checkNoFile(out, "a folder or a picture's path");
}

async function checkNoFile(path: string, needed: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found && !found.isDirectory()) throw new UserError(`${path} is a file; ${needed} is needed.`);
}

/** What a picture was drawn from. */
export interface DrawnFrom {
  readonly model: string;
  readonly opened: OpenedWith;
  readonly request: TextToImageRequestInput;
  readonly resolved: ResolvedRequest;
  /** [width, height] that was drawn, before any enlarging. */
  readonly drawn: readonly [number, number];
}

/** Writes a picture with what it takes to draw it again, and returns its path. */
export async function writeDrawn(image: TextToImagePicture, out: string, from: DrawnFrom): Promise<string> {
  const { prompt, seed } = image;
  const { model, opened, request, resolved, drawn } = from;
  const { count: _, batch: __, seed: ___, ...rest } = request;
  const record: PictureRecord = {
    ...{ model, opened },
    request: {
      ...rest,
      ...{ prompt, steps: resolved.steps, guidance: resolved.guidance, refineFrom: resolved.refineFrom, seeds: [seed] },
      ...{ width: drawn[0], height: drawn[1] },
      negativePrompt: request.negativePrompt === undefined ? undefined : image.negative,
      prompt2: request.prompt2 === undefined ? undefined : image.prompt2,
      negativePrompt2: request.negativePrompt2 === undefined ? undefined : image.negative2,
      prompt3: request.prompt3 === undefined ? undefined : image.prompt3,
      negativePrompt3: request.negativePrompt3 === undefined ? undefined : image.negative3,
    },
    size: drawn,
  };
  const path = await pathFor(image, out, basename(resolve(model)));
  await writeFileAtomically(path, await encodeImage(image, pictureFormat(path), { text: pictureNotes(record) }));
  return path;
}

/** The file of a picture; in a folder, one that is not there yet. */
async function pathFor({ seed }: TextToImagePicture, out: string, model: string): Promise<string> {
  if (isPictureFile(out)) return out;
  await mkdir(out, { recursive: true });
  for (let i = 1; ; i++) {
    const path = join(out, `${model}-seed${seed}${i === 1 ? "" : `-${i}`}.png`);
    if (!(await stat(path).catch(() => undefined))) return path;
  }
}
