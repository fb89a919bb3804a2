import { add, concat, mean, type Tensor } from "../graph/index.ts";
import { attend, joinHeads, splitHeads } from "./attention.ts";
import { layerNorm, linear } from "./layers.ts";
import { group, module, parameter } from "./module.ts";

/**
 * A text as one vector, added to the embedding of the timestep: tokens [n, tokens, width] → [n, outputs]. The mean of the
 * tokens asks all of them by attention (as CLIP pools pixels: Radford et al. 2021, section 2.4), in Imagen's manner
 * (Saharia et al. 2022, appendix B.1), as diffusers' `TextTimeEmbedding`.
 */
export function textTimeEmbedding(width: number, outputs: number, heads: number) {
  const position = parameter([1, width], { kind: "normal", deviation: width ** -0.5 });
  const pool = {
    positional_embedding: position,
    k_proj: linear(width, width),
    q_proj: linear(width, width),
    v_proj: linear(width, width),
  };
  const parts = {
    norm1: layerNorm(width),
    pool: group(pool),
    proj: linear(width, outputs),
    norm2: layerNorm(outputs),
  };
  const scale = (width / heads) ** -0.5;
  return module(parts, (text: Tensor) => {
    const tokens = parts.norm1(text);
    const asking = add(mean(tokens, 1, { keepDims: true }), position.tensor);
    const seen = concat([asking, tokens], 1);
    const [q, k, v] = [pool.q_proj(asking), pool.k_proj(seen), pool.v_proj(seen)].map((x) => splitHeads(x, heads));
    const pooled = joinHeads(attend(q!, k!, v!, { scale })); // [n, 1, width]
    return parts.norm2(parts.proj(mean(pooled, 1)));
  });
}
