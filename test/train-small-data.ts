import { seeded } from "../src/core/random.ts";
import type { Dataset } from "../src/data/index.ts";

/** Images of random bytes, with labels where classes are asked for. */
export function smallDataset({
  count = 10,
  size = 8,
  channels = 1 as 1 | 3,
  classes = 0,
  flip = false,
  seed = 1,
} = {}): Dataset {
  const random = seeded(seed);
  const bytes = random.integers(0, 256, [count, channels, size, size]).data;
  return {
    name: "random images",
    images: Uint8Array.from(bytes, Number),
    count,
    channels,
    height: size,
    width: size,
    ...(classes > 0 ? { labels: Int32Array.from({ length: count }, (_, i) => i % classes) } : {}),
    flip,
    warnings: [],
  };
}
