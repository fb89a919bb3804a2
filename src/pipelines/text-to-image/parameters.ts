import type { SamplerName } from "../../diffusion/index.ts";
import { isPicturePath, type PictureInput } from "../picture-input.ts";
import { type TextToImageRequestInput, textToImageRequest } from "./request.ts";

// What is written into pictures so that they can be made again: our own JSON, and the text that AUTOMATIC1111's web UI
// writes and other programs read.

/** Under which names pictures hold them (PNG text chunks, or JSON in the EXIF description). */
export const REQUEST_KEY = "allegory";
export const PARAMETERS_KEY = "parameters";

/** What of a model's opening decides what it draws: other parts than its own, and which files of it were taken. */
const OPENED = ["vae", "controlNet", "tokenizer", "refiner", "variant", "revision"] as const;
export interface OpenedWith extends Readonly<Partial<Record<(typeof OPENED)[number], string>>> {
  /** Words of one's own, each a path or `word=path`. */
  readonly embeddings?: readonly string[];
  readonly quantize?: 4 | 8;
  readonly prediction?: "epsilon" | "v_prediction";
}

/** How a picture was made. */
export interface PictureRecord {
  /** The model's folder, as it was given. */
  readonly model: string;
  readonly opened?: OpenedWith;
  /** A request that draws this picture alone. */
  readonly request: TextToImageRequestInput;
  /** [width, height]. */
  readonly size: readonly [number, number];
}

/** The text entries for a picture's file. Pictures that were given as pixels cannot be written down. */
export function pictureNotes(record: PictureRecord): Record<string, string> {
  const written = Object.keys(textToImageRequest.shape).flatMap((name) => {
    const value = record.request[name as keyof TextToImageRequestInput];
    const pixels = ["image", "mask", "controlImage", "latents"].includes(name) && !isPicturePath(value as PictureInput);
    return value === undefined || pixels ? [] : [[name, value]];
  });
  return {
    [PARAMETERS_KEY]: parametersText(record),
    [REQUEST_KEY]: JSON.stringify({
      model: record.model,
      opened: record.opened,
      request: Object.fromEntries(written),
    }),
  };
}

/** What a picture's file says of how it was made. */
export interface PictureNotes {
  readonly model?: string;
  readonly opened?: OpenedWith;
  readonly request: TextToImageRequestInput;
}

/** What a picture's text entries say of how it was made; undefined where they say nothing. */
export function readPictureNotes(notes: Readonly<Record<string, string>>): PictureNotes | undefined {
  const own = parsed(notes[REQUEST_KEY]);
  if (own && typeof own.request === "object" && own.request !== null) {
    const request = own.request as TextToImageRequestInput;
    const texts = (value: unknown) => Array.isArray(value) && value.every((each) => typeof each === "string");
    const opened = Object.entries(own.opened ?? {}).filter(([name, value]) => {
      if (name === "embeddings") return texts(value);
      if (name === "quantize") return value === 4 || value === 8;
      if (name === "prediction") return value === "epsilon" || value === "v_prediction";
      return OPENED.includes(name as never) && typeof value === "string";
    });
    return {
      ...(typeof own.model === "string" ? { model: own.model } : {}),
      ...(opened.length > 0 ? { opened: Object.fromEntries(opened) } : {}),
      request,
    };
  }
  const text = notes[PARAMETERS_KEY];
  return text === undefined ? undefined : { request: parseParameters(text) };
}

function parsed(text: string | undefined): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text ?? "");
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** The names of samplers there. */
const NAMES: Readonly<Partial<Record<SamplerName, string>>> = {
  ddim: "DDIM",
  euler: "Euler",
  "euler-ancestral": "Euler a",
  heun: "Heun",
  dpm2: "DPM2",
  "dpm2-ancestral": "DPM2 a",
  lms: "LMS",
  plms: "PLMS",
  "dpm++2m": "DPM++ 2M",
  "dpm++3m": "DPM++ 3M",
  "dpm++2m-sde": "DPM++ 2M SDE",
  "dpm++2s": "DPM++ 2S",
  unipc: "UniPC",
  lcm: "LCM",
};

/** The prompt, a line of the negative prompt, and a line of `Name: value` pairs. */
export function parametersText({ model, request, size }: PictureRecord): string {
  const { negativePrompt, sampler, spread, strength, clipSkip, guidanceRescale, loras } = request;
  const pairs: [string, unknown][] = [
    ["Steps", request.steps],
    ["Sampler", sampler && (NAMES[sampler] ?? sampler)],
    ["Schedule type", spread && spread.charAt(0).toUpperCase() + spread.slice(1)],
    ["CFG scale", request.guidance],
    ["Seed", request.seeds?.[0] ?? request.seed],
    ["Size", `${request.width ?? size[0]}x${request.height ?? size[1]}`],
    ["Model", model.split(/[\\/]/).filter(Boolean).at(-1)],
    [
      "Denoising strength",
      request.enlarge ? request.enlargeStrength : request.image === undefined ? undefined : strength,
    ],
    ["Mask blur", request.maskFeather || undefined],
    ["Inpaint area", request.onlyMasked ? "Only masked" : undefined],
    ["Masked area padding", request.onlyMasked ? request.maskPadding : undefined],
    ["Hires upscale", request.enlarge],
    ["Hires steps", request.enlargeSteps],
    // There 1 is what is 0 here: the last layer.
    ["Clip skip", clipSkip ? clipSkip + 1 : undefined],
    ["CFG Rescale phi", guidanceRescale || undefined],
    ["Lora", loras?.map((one) => (typeof one === "string" ? one : `${one.path}:${one.scale ?? 1}`)).join(" ")],
  ];
  const line = pairs.filter(([, value]) => value !== undefined && value !== "");
  return [
    String(request.prompt),
    ...(negativePrompt ? [`Negative prompt: ${negativePrompt}`] : []),
    line.map(([name, value]) => `${name}: ${quoted(String(value))}`).join(", "),
  ].join("\n");
}

/** Values with commas, colons or line ends stand in quotes there. */
function quoted(value: string): string {
  return /[,:\n"]/.test(value) ? JSON.stringify(value) : value;
}

/** Reads that text, also as the web UI wrote it: what has no place in a request is left out. */
export function parseParameters(text: string): TextToImageRequestInput {
  const lines = text.split("\n");
  const last = /^Steps: \d+/.test(lines.at(-1) ?? "") ? lines.pop()! : "";
  const at = lines.findIndex((line) => line.startsWith("Negative prompt:"));
  const prompt = (at < 0 ? lines : lines.slice(0, at)).join("\n").trim();
  const negative = at < 0 ? "" : lines.slice(at).join("\n").slice("Negative prompt:".length).trim();
  const pairs = new Map(
    [...last.matchAll(/\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)/g)].map((match) => [match[1]!, match[2]!]),
  );
  const number = (name: string) => {
    const value = Number(pairs.get(name) ?? Number.NaN);
    return Number.isFinite(value) ? value : undefined;
  };
  // Older versions name the schedule after the sampler.
  const [, name = "", schedule = pairs.get("Schedule type")] =
    /^(.*?)(?: (Karras|Exponential))?$/.exec(pairs.get("Sampler") ?? "") ?? [];
  const sampler = Object.entries(NAMES).find(([own, theirs]) => theirs === name || own === name)?.[0];
  const spread = schedule?.toLowerCase();
  const [, width, height] = /^(\d+)x(\d+)$/.exec(pairs.get("Size") ?? "") ?? [];
  const clipSkip = number("Clip skip");
  const found = {
    prompt,
    negativePrompt: negative || undefined,
    steps: number("Steps"),
    sampler,
    spread: sampler && (spread === "karras" || spread === "exponential") ? spread : undefined,
    guidance: number("CFG scale"),
    seed: number("Seed"),
    width: width && Number(width),
    height: height && Number(height),
    clipSkip: clipSkip && clipSkip - 1,
  };
  const given = Object.entries(found).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as unknown as TextToImageRequestInput;
}
