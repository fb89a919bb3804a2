import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../core/errors.ts";
import { seeded } from "../core/random.ts";
import {
  type CaptionSource,
  type Dataset,
  emoji,
  findImages,
  idxFiles,
  imageFolder,
  isTarName,
  mnistDigits,
  mnistLike,
  subsetOf,
  webDataset,
} from "../data/index.ts";
import type { DataOptions } from "./data-fields.ts";

/** What a recipe says of its data, and where the captions of a folder's pictures are (default: none are read). */
export type DataChoice = DataOptions & { readonly classes?: boolean; readonly captions?: CaptionSource };

interface Reading {
  readonly signal?: AbortSignal;
  /** Where decoded images are kept (see `imageFolder`). */
  readonly cache?: string | false;
}

/**
 * Opens the data that a recipe names.
 * @throws UserError where there is no such data, or it is not what the recipe says
 */
export async function datasetOf(recipe: DataChoice, { signal, cache }: Reading = {}): Promise<Dataset> {
  const { data, flip, labels, size } = recipe;
  if (data === "mnist") {
    requireGrayDigits(recipe);
    return mnistDigits({ padTo: size ?? 32, flip });
  }
  if (data === "emoji") return emojiFor(recipe, { signal, cache });
  const found = statSync(data, { throwIfNoEntry: false });
  if (isTarName(data) || (found?.isDirectory() && (await isFolderOfShards(data)))) {
    return shardsFor(recipe, { signal, cache });
  }
  if (!found) {
    throw new UserError(`There is no folder or file ${data}.`, {
      hint: 'Give a folder of images or of .tar shards, an IDX file, or "mnist" or "emoji" for what packages hold.',
      field: "data",
    });
  }
  if (found.isFile()) {
    requireGrayDigits(recipe);
    const labelFile = labels === "auto" || labels === "none" ? undefined : labels;
    return idxFiles(data, labelFile, { padTo: size, flip });
  }
  const isIdxFolder = ["", ".gz"].some((end) => existsSync(join(data, `train-images-idx3-ubyte${end}`)));
  if (isIdxFolder) {
    requireGrayDigits(recipe);
    return mnistLike(data, { padTo: size ?? 32, flip });
  }
  return imageFolder(data, {
    size: requireSize(size, "A folder of images"),
    channels: recipe.colour === "gray" ? 1 : 3,
    labels: labels === "folders" || recipe.classes ? "folders" : "none",
    captions: recipe.captions,
    background: recipe.background,
    skipUnreadable: recipe.skipUnreadable,
    flip,
    cache,
    signal,
  });
}

/**
 * The data that a recipe names, and what of it is held out from training to judge by: of the emoji the tenth that always
 * is, of other data the share asked for, chosen by the seed.
 */
export async function splitDataset(
  recipe: DataChoice,
  { share, seed, ...reading }: Reading & { readonly share: number; readonly seed: number },
): Promise<{ training: Dataset; heldOut: Dataset }> {
  if (recipe.data === "emoji") {
    return { training: await emojiFor(recipe, reading), heldOut: await emojiFor(recipe, reading, "held-out") };
  }
  const all = await datasetOf(recipe, reading);
  const held = Math.round(all.count * share);
  if (held < 1 || held >= all.count) {
    throw new UserError(`A share of ${share} of the ${all.count} images of ${all.name} cannot be held out.`, {
      hint: "At least one image must be held out, and one be left.",
      field: "holdOut",
    });
  }
  const order = seeded(seed).permutation(all.count);
  const part = (name: string, indices: Uint32Array) => ({
    ...subsetOf(all, indices.sort()),
    name: `${all.name} (${name})`,
  });
  return { training: part("to train on", order.slice(held)), heldOut: part("held out", order.slice(0, held)) };
}

/** Whether a folder holds archives and no picture beside them: one that pictures were unpacked from may lie with them. */
async function isFolderOfShards(path: string): Promise<boolean> {
  return readdirSync(path).some(isTarName) && (await findImages(path)).files.length === 0;
}

async function shardsFor(recipe: DataChoice, reading: Reading): Promise<Dataset> {
  const { data, size, colour, labels, background, flip, skipUnreadable, captions } = recipe;
  if (labels === "folders" || captions === "sidecar" || captions === "metadata") {
    throw new UserError("The words and classes of tar shards are in their .txt, .json and .cls members.", {
      hint: 'Leave labels and captions out, or choose "none".',
      field: labels === "folders" ? "labels" : "captions",
    });
  }
  return webDataset(data, {
    size: requireSize(size, "Pictures in tar shards"),
    channels: colour === "gray" ? 1 : 3,
    labels: labels === "none" ? "none" : "auto",
    captions: captions === "none" ? "none" : "auto",
    background,
    skipUnreadable,
    flip,
    ...reading,
  });
}

function requireSize(size: number | undefined, what: string): number {
  if (size !== undefined) return size;
  throw new UserError(`${what} need${what.startsWith("A ") ? "s" : ""} a size.`, {
    hint: "Add --size 64 (or another number of pixels): images are scaled and centre-cropped to it.",
    field: "size",
  });
}

/** The emoji to train on; a tenth is held out. */
async function emojiFor(recipe: DataChoice, reading: Reading, split: "train" | "held-out" = "train"): Promise<Dataset> {
  const { colour, labels, size = 64, flip, background } = recipe;
  if (labels !== "auto") {
    throw new UserError(`The emoji have classes of their own; labels "${labels}" cannot be given.`, {
      hint: "Leave labels out: the class of an emoji is its group in Unicode's list.",
      field: "labels",
    });
  }
  return emoji({ size, channels: colour === "gray" ? 1 : 3, background, flip, split, ...reading });
}

/** IDX files hold gray images, and their labels in a file: options that say otherwise are not passed over in silence. */
function requireGrayDigits({ colour, labels }: DataOptions): void {
  if (colour === "rgb") {
    throw new UserError("The images of IDX files are gray; colour rgb was asked for.", {
      hint: "Leave colour out, or give a folder of colour images.",
      field: "colour",
    });
  }
  if (labels === "folders") {
    throw new UserError("IDX files have no sub-folders to take classes from.", {
      hint: "Leave labels out: the labels of an IDX set are found by themselves, or give their file.",
      field: "labels",
    });
  }
}
