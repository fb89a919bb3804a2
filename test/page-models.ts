import { cp, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { seeded } from "../src/core/random.ts";
import { hostImage, readJsonObject, saveImage, writeJsonObject, writeSafetensors } from "../src/io/index.ts";
import {
  tinyDit,
  tinyFlux,
  tinySd3,
  tinyXl,
  writeTiny,
  writeTinyConsistency,
  writeTinyControlNet,
} from "./tiny-models.ts";
import { writeTinyPipeline } from "./tiny-pipeline.ts";

const pipelines = fileURLToPath(new URL("fixtures/reference/pipelines/", import.meta.url));
const sd15 = join(pipelines, "sd15");
const lora = join(sd15, "lora", "pytorch_lora_weights.safetensors");

/** What is written for each of the names, at a path. */
const WRITERS: Readonly<Record<string, (path: string) => Promise<void>>> = {
  "sdxl-base/": (path) => writeTiny(path, tinyXl("base")),
  "sdxl-refiner/": (path) => writeTiny(path, tinyXl("refiner")),
  "sdxl-turbo/": async (path) => {
    await writeTiny(path, tinyXl("base"));
    const file = join(path, "scheduler", "scheduler_config.json");
    const turbo = { _class_name: "EulerAncestralDiscreteScheduler", timestep_spacing: "trailing" };
    const { interpolation_type: _, ...own } = await readJsonObject(file);
    await writeJsonObject(file, { ...own, ...turbo });
  },
  "LCM_Dreamshaper_v7/": (path) => writeTinyConsistency(path, sd15),
  "stable-diffusion-3.5-medium/": (path) => writeTiny(path, tinySd3()),
  "FLUX.1-schnell/": (path) => writeTiny(path, tinyFlux("schnell")),
  "DiT-XL-2-256/": (path) => writeTiny(path, tinyDit()),
  "control-canny/": (path) => writeTinyControlNet(path, sd15),
  "runs/mine": (path) => writeTinyPipeline(path),
  "runs/animals": (path) => writeTinyPipeline(path, { classes: ["cat", "dog", "horse"], classDropout: true }),
  "learned_embeds.safetensors": (path) => writeSafetensors(path, new Map([["<cat>", seeded(1).normal([2, 32])]])),
  "style.safetensors": (path) => cp(lora, path),
  "lcm-lora.safetensors": (path) => cp(lora, path),
  "harbour.jpg": (path) => saveImage(path, hostImage(60, 44, 3, new Uint8Array(60 * 44 * 3).fill(120))),
  "mask.png": (path) => {
    const white = (i: number) => i % 60 > 30 && i % 60 < 40 && i > 600 && i < 1200;
    return saveImage(
      path,
      hostImage(
        60,
        44,
        1,
        Uint8Array.from({ length: 60 * 44 }, (_, i) => (white(i) ? 255 : 0)),
      ),
    );
  },
  "edges.png": (path) =>
    saveImage(
      path,
      hostImage(
        32,
        24,
        1,
        Uint8Array.from({ length: 32 * 24 }, (_, i) => (i % 7 === 0 ? 255 : 0)),
      ),
    ),
  "photo.png": (path) => saveImage(path, hostImage(16, 16, 3, new Uint8Array(768).fill(90))),
};

/** Tiny models and pictures in the place of those that pages of docs/ name. */
export interface PageFiles {
  /** A path for each name. */
  readonly files: Readonly<Record<string, string>>;
  /** Where what a page writes is to go. */
  readonly folder: string;
  remove(): Promise<void>;
}

/** Writes what stands for the names; `outputs` are files that pages write themselves. */
export async function pageFiles(outputs: readonly string[] = []): Promise<PageFiles> {
  const folder = await mkdtemp(join(tmpdir(), "allegory-pages-"));
  await mkdir(join(folder, "runs"));
  const files: Record<string, string> = {
    "stable-diffusion-v1-5/": sd15,
    "ddpm-cat-256/": join(pipelines, "ddpm"),
  };
  for (const [name, write] of Object.entries(WRITERS)) {
    files[name] = join(folder, name);
    await write(files[name]);
  }
  for (const name of outputs) files[name] = join(folder, name);
  return { files, folder, remove: () => rm(folder, { recursive: true }) };
}
