import { type Dataset, picturesAt } from "../src/data/index.ts";
import { contactSheet, type HostImage } from "../src/io/index.ts";
import { type Memorization, NEIGHBOURS } from "../src/metrics/index.ts";

export interface SheetOptions {
  /** What each picture was drawn for. */
  readonly prompts: readonly string[];
  readonly title: string;
  /** Drawn pictures that are shown, spread evenly from the one nearest to training to the farthest. */
  readonly shown: number;
}

/**
 * Drawn pictures beside their nearest training pictures, in the judge's features and in pixels: row by row from the nearest
 * to the farthest in features, so that the sheet shows copies, if there are any, and what is least like training.
 */
export async function neighbourSheet(
  drawn: readonly HostImage[],
  training: Dataset,
  nearness: { readonly features: Memorization; readonly pixels: Memorization },
  { prompts, title, shown }: SheetOptions,
): Promise<HostImage> {
  const distance = (i: number) => nearness.features.neighbours.distances[i * NEIGHBOURS]!;
  const order = drawn.map((_, i) => i).sort((a, b) => distance(a) - distance(b));
  const rows = Math.min(shown, order.length);
  const chosen = Array.from(
    { length: rows },
    (_, row) => order[rows === 1 ? 0 : Math.round((row * (order.length - 1)) / (rows - 1))]!,
  );
  const places = Array.from({ length: NEIGHBOURS }, (_, place) => place + 1);
  return contactSheet(
    chosen.flatMap((i) => [
      drawn[i]!,
      ...[nearness.features, nearness.pixels].flatMap(({ neighbours }) =>
        picturesAt(training, neighbours.indices.subarray(i * NEIGHBOURS, (i + 1) * NEIGHBOURS)),
      ),
    ]),
    {
      columns: ["drawn", ...places.map((n) => `seen ${n}`), ...places.map((n) => `pixels ${n}`)],
      rows: chosen.map((i) => prompts[i]!),
      title,
    },
  );
}
