import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { messageOf, UserError } from "../core/errors.ts";
import { seeded } from "../core/random.ts";
import type { Dataset } from "./dataset.ts";
import { type DecodingOptions, decodedImages, imageFiles } from "./decoded-images.ts";
import { type EmojiWords, emojiCaptions } from "./emoji-captions.ts";
import type { FoundFile } from "./find-images.ts";
import { packageFolder } from "./package-folder.ts";

export interface EmojiOptions extends Omit<DecodingOptions, "skipUnreadable"> {
  /** Take the pictures of skin tones too: 3,119 instead of 1,599. */
  readonly skins?: boolean;
  /** Mirror images at random in training. */
  readonly flip?: boolean;
  /** The pictures to train on (default), the tenth that is kept from training, or all. */
  readonly split?: "train" | "held-out" | "all";
}

const PICTURES = "@lobehub/fluent-emoji-3d";
const WORDS = "emojibase-data";

/** The group of Unicode's emoji list that holds flags: pictures of countries, not of things. */
const FLAGS = 9;

/** Unicode's groups by number, as `emojibase-data` has them in meta/groups.json. */
const GROUPS = [
  "smileys and emotion",
  "people and body",
  "components",
  "animals and nature",
  "food and drink",
  "travel and places",
  "activities",
  "objects",
  "symbols",
] as const;

/**
 * Decides which emoji are held out; changing it would let models see what they were to be tested on. Of the seeds from 0
 * it is the first that holds out no heart of one colour and no plain cat, which are what people ask a model for first.
 */
const SPLIT_SEED = 5;

/**
 * Microsoft's Fluent Emoji in three dimensions (256×256 pixels, transparent, scaled to `size`), out of the npm package
 * `@lobehub/fluent-emoji-3d`, with captions made of the labels and tags of `emojibase-data`; flags are left out. The
 * class of a picture is its group in Unicode's list. In the order of that list.
 *
 * A tenth of the emoji is held out by a permutation whose seed is fixed, the same for every size; pictures with a skin
 * tone go with the emoji they vary.
 *
 * @throws UserError when one of the packages is not installed or not as expected, or for an unknown split
 */
export async function emoji(options: EmojiOptions): Promise<Dataset> {
  const { skins = false, flip = false, split = "train" } = options;
  if (!["train", "held-out", "all"].includes(split)) {
    throw new UserError(`There is no split "${split}" of the emoji; accepted are train, held-out and all.`, {
      field: "split",
    });
  }
  const pictures = await pictureFiles();
  const families = (await emojiFamilies()).flatMap(({ group, members }) => {
    const drawn = members.flatMap((words) => {
      const file = pictures.get(joinKey(words.hexcode));
      return file ? [{ file, words }] : [];
    });
    return drawn.length > 0 ? [{ group, drawn }] : [];
  });
  const heldOut = heldOutOf(families.length);
  const chosen = families
    .filter((_, i) => split === "all" || heldOut.has(i) === (split === "held-out"))
    .flatMap(({ group, drawn }) => (skins ? drawn : drawn.slice(0, 1)).map((picture) => ({ ...picture, group })));
  const files = chosen.map(({ file }) => file);
  const { pixels, indices: _, warnings, ...layout } = await decodedImages(imageFiles(files, PICTURES), options);
  return {
    name: `Fluent emoji (${split}${skins ? ", with skin tones" : ""})`,
    images: pixels.data,
    count: files.length,
    ...layout,
    labels: Int32Array.from(chosen, ({ group }) => group),
    classNames: GROUPS,
    captions: chosen.map(({ words }) => emojiCaptions(words)),
    flip,
    warnings,
  };
}

/** Which of the emoji are kept from training. */
function heldOutOf(count: number): ReadonlySet<number> {
  return new Set(
    seeded(SPLIT_SEED)
      .permutation(count)
      .subarray(0, Math.floor(count / 10)),
  );
}

/** An emoji, then its variants of skin tone. */
interface EmojiFamily {
  readonly group: number;
  readonly members: readonly (EmojiWords & { readonly hexcode: string })[];
}

interface ListedEmoji {
  readonly hexcode: string;
  readonly label: string;
  readonly tags?: readonly string[];
  readonly order?: number;
  /** Absent for the regional indicators, of which flags are made. */
  readonly group?: number;
  readonly skins?: readonly Omit<ListedEmoji, "tags" | "skins">[];
}

async function emojiFamilies(): Promise<EmojiFamily[]> {
  const path = join(packageFolder(WORDS, "the words for emoji"), "en", "data.json");
  const list = await listedEmoji(path);
  return list
    .filter(({ group }) => group !== undefined && group !== FLAGS)
    .sort((a, b) => (a.order ?? 0) - (b.order ?? 0))
    .map(({ hexcode, label, tags = [], group, skins = [] }) => {
      if (typeof hexcode !== "string" || typeof label !== "string" || GROUPS[group!] === undefined) {
        throw new UserError(`${path} does not hold emoji as expected; another version of the package ${WORDS}?`);
      }
      return {
        group: group!,
        members: [
          { hexcode, label, tags },
          ...skins.map((skin) => ({ hexcode: skin.hexcode, label: skin.label, tags })),
        ],
      };
    });
}

async function listedEmoji(path: string): Promise<ListedEmoji[]> {
  try {
    return JSON.parse(await readFile(path, "utf8")) as ListedEmoji[];
  } catch (error) {
    throw new UserError(`${path} cannot be read: ${messageOf(error)}.`, { cause: error });
  }
}

/** The pictures by {@link joinKey}. */
async function pictureFiles(): Promise<Map<string, FoundFile>> {
  const root = packageFolder(PICTURES, "pictures of emoji");
  const folder = join(root, "assets");
  const files = new Map<string, FoundFile>();
  try {
    const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { version: string };
    for (const name of (await readdir(folder)).filter((file) => file.endsWith(".webp"))) {
      const absolute = join(folder, name);
      const { size, mtimeMs } = await stat(absolute);
      // npm gives every file of every version the same time: the version tells them apart.
      const file = { path: `${PICTURES}@${version}/${name}`, absolute, bytes: size, modified: mtimeMs };
      files.set(joinKey(basename(name, ".webp")), file);
    }
  } catch (error) {
    throw new UserError(`The pictures in ${folder} cannot be read: ${messageOf(error)}.`, { cause: error });
  }
  return files;
}

/**
 * What both packages' names for an emoji have in common: its code points in lower-case hexadecimal of at least four
 * digits, without the variation selector that asks for a picture (U+FE0F), which each sets as it likes.
 */
function joinKey(hexcode: string): string {
  const points = hexcode.toLowerCase().split(/[-_]/);
  return points
    .filter((point) => point !== "fe0f")
    .map((point) => point.padStart(4, "0"))
    .join("-");
}
