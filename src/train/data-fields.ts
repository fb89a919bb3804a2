import { z } from "zod";
import { whole } from "./run-options.ts";

/** What is trained on: the fields of every recipe. */
export const dataFields = {
  data: z
    .string()
    .describe(
      'folder of images (any depth) or of WebDataset .tar shards, IDX file, folder with MNIST\'s four files, "mnist" for the packaged digits, or "emoji" for those of the package @lobehub/fluent-emoji-3d',
    ),
  labels: z
    .string()
    .default("auto")
    .describe(
      'where classes come from: "folders" (sub-folders), "none", an IDX label file, or "auto": those of an IDX set',
    ),
  size: whole(4)
    .optional()
    .describe("height and width of the images in pixels; images are scaled and centre-cropped to it"),
  colour: z
    .enum(["rgb", "gray"])
    .optional()
    .describe("channels of the images (default: rgb for folders, gray for IDX files)"),
  background: z.string().default("#ffffff").describe("colour behind transparent pixels"),
  flip: z.boolean().default(false).describe("mirror half of the images left to right, newly chosen every epoch"),
  skipUnreadable: z.boolean().default(false).describe("leave out files that cannot be read instead of stopping"),
};

const schema = z.object(dataFields);

/** What a recipe says of its data. */
export type DataOptions = z.output<typeof schema>;
