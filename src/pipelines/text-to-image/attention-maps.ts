import { UserError } from "../../core/errors.ts";
import { float32, sizeOf } from "../../core/host-tensor.ts";
import type { Samples } from "../../diffusion/index.ts";
import { add, mean, mul, type Tensor } from "../../graph/index.ts";
import type { Family, Size } from "./family.ts";
import type { PromptToken } from "./prompt-tokens.ts";

/** What is asked of the attention maps of a run. */
export interface AttentionOptions {
  /**
   * How often the latents' sides are halved in the layers that are looked at; default: as often as in the coarsest layers of
   * the ways down and up. Coarse layers say which thing is where, fine ones follow outlines.
   */
  readonly level?: number;
}

/** Where a token of a picture's prompt was looked at (Hertz et al. 2022; Tang et al. 2022, "DAAM"). */
export interface TokenAttention {
  readonly token: PromptToken;
  /**
   * [h, w]: of each place the share of its attention that the token got, averaged over heads, layers of the level and calls of
   * the network. Over all tokens the shares of a place add up to 1.
   */
  readonly map: Samples;
}

/** The level that is looked at. Throws a UserError where a model has no such layers. */
export function attentionLevel({ unet }: Family, { level }: AttentionOptions): number {
  const levels = unet?.attentionLevels ?? [];
  const coarsest = levels.at(-1);
  if (coarsest === undefined) {
    throw new UserError(
      "This model has no attention to the text apart from that of the picture: there are no maps of it.",
      {
        field: "attention",
      },
    );
  }
  if (level === undefined || levels.includes(level)) return level ?? coarsest;
  throw new UserError(`This model does not look at the text at level ${level}.`, {
    hint: `It does at ${levels.join(", ")}: so often are the latents' sides halved there.`,
    field: "attention",
  });
}

/** Collects, while a graph is built, the mean weights of the layers that work on images of one size. */
export function watchedAttention([height, width]: Size) {
  const seen: Tensor[] = [];
  return {
    /** @param weights [n, heads, h, w, tokens] of a layer */
    onCrossAttention(weights: Tensor): void {
      if (weights.shape[2] === height && weights.shape[3] === width) seen.push(mean(weights, 1));
    },
    /** [n, h, w, tokens] */
    mean: () =>
      mul(
        seen.reduce((sum, one) => add(sum, one)),
        1 / seen.length,
      ),
  };
}

/** Adds up what the calls of a batch's run say. */
export interface AttentionRecord {
  /** [height, width] of the layers that are looked at. */
  readonly size: Size;
  /** @param weights [n, h, w, tokens]; the pictures with their prompts come last, after those without */
  add(weights: Samples): void;
  /** Of each picture for each token its map. */
  maps(tokens: readonly (readonly PromptToken[])[]): TokenAttention[][];
}

/** @param latents [height, width]; @param pictures of the batch */
export function attentionRecord(latents: Size, level: number, pictures: number): AttentionRecord {
  // An odd side is halved upwards.
  const size = [Math.ceil(latents[0] / 2 ** level), Math.ceil(latents[1] / 2 ** level)] as const;
  let sum: Float64Array | undefined;
  let calls = 0;
  return {
    size,
    add({ shape, data }) {
      const each = sizeOf(shape.slice(1));
      sum ??= new Float64Array(pictures * each);
      const from = data.length - pictures * each;
      for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + data[from + i]!;
      calls++;
    },
    maps(tokens) {
      const places = size[0] * size[1];
      const count = sum!.length / (pictures * places);
      return tokens.map((own, picture) =>
        own.flatMap((token): TokenAttention[] => {
          if (token.position === undefined) return [];
          const map = Float32Array.from(
            { length: places },
            (_, place) => sum![(picture * places + place) * count + token.position!]! / calls,
          );
          return [{ token, map: float32(size, map) }];
        }),
      );
    },
  };
}
