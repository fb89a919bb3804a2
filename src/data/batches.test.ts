import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { batches } from "./batches.ts";
import { type Dataset, fingerprint, imagesAt, requireFit, sliceOf } from "./dataset.ts";

/** Images of 2×3 pixels whose samples tell image, channel, row and column apart. */
function numbered(count: number, options: Partial<Dataset> = {}): Dataset {
  const channels = options.channels ?? 1;
  const images = Uint8Array.from({ length: count * channels * 6 }, (_, i) => i % 256);
  const labels = Int32Array.from({ length: count }, (_, i) => i % 3);
  return {
    name: "numbered",
    images,
    count,
    channels,
    height: 2,
    width: 3,
    labels,
    flip: false,
    warnings: [],
    ...options,
  };
}

describe("batches", () => {
  it("hand out every image once an epoch, in another order each time", () => {
    const dataset = numbered(50);
    const source = batches(dataset, { batch: 10, seed: 3 });
    const epochs = Array.from({ length: 3 }, () => Array.from({ length: 5 }, () => [...source.next().indices]).flat());
    for (const order of epochs)
      expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(new Set(epochs.map(String)).size).toBe(3);
    expect(source.position()).toEqual({ epoch: 3, index: 0 });
  });

  it("are always full, also when a batch is larger than the data", () => {
    const source = batches(numbered(3), { batch: 7, seed: 1 });
    const counts = [0, 0, 0];
    for (let i = 0; i < 3; i++) for (const index of source.next().indices) counts[index]!++;
    expect(counts).toEqual([7, 7, 7]);
    expect(source.position()).toEqual({ epoch: 7, index: 0 });
  });

  it("continue exactly at a position that went through JSON", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 20 }),
        fc.integer({ min: 1, max: 9 }),
        fc.nat(12),
        fc.integer({ min: 0, max: 2 ** 32 }),
        (count, batch, before, seed) => {
          const dataset = numbered(count, { flip: true });
          const whole = batches(dataset, { batch, seed });
          for (let i = 0; i < before; i++) whole.next();
          const from = JSON.parse(JSON.stringify(whole.position()));
          const resumed = batches(dataset, { batch, seed, from });
          for (let i = 0; i < 5; i++) expect(resumed.next()).toEqual(whole.next());
        },
      ),
    );
  });

  it("give each image its own pixels and label, mirrored where flipped says so", () => {
    const dataset = numbered(40, { flip: true, channels: 3 });
    const { images, labels, indices, flipped } = batches(dataset, { batch: 40, seed: 9 }).next();
    expect(images.shape).toEqual([40, 3, 2, 3]);
    const turned = flipped.reduce((sum, flag) => sum + flag, 0);
    expect(turned).toBeGreaterThan(8);
    expect(turned).toBeLessThan(32);
    for (let n = 0; n < 40; n++) {
      const original = imagesAt(dataset, [indices[n]!]).data;
      for (let row = 0; row < 6; row++) {
        const expected = [...original.subarray(row * 3, row * 3 + 3)];
        if (flipped[n]) expected.reverse();
        expect([...images.data.subarray(n * 18 + row * 3, n * 18 + row * 3 + 3)]).toEqual(expected);
      }
      expect(labels!.data[n]).toBe(BigInt(indices[n]! % 3));
    }
  });

  it("differ between seeds and never flip unless asked to", () => {
    const orders = [0, 1, 2, 2 ** 31].map((seed) => String(batches(numbered(30), { batch: 30, seed }).next().indices));
    expect(new Set(orders).size).toBe(4);
    expect(
      batches(numbered(30), { batch: 30 })
        .next()
        .flipped.some((flag) => flag === 1),
    ).toBe(false);
  });

  it("refuse impossible sizes and positions", () => {
    expect(() => batches(numbered(3), { batch: 0 })).toThrow(/batch size is 0/);
    expect(() => batches(numbered(3), { batch: 1, from: { epoch: 0, index: 3 } })).toThrow(/which has 3 images/);
    expect(() => batches(numbered(3), { batch: 1, from: { epoch: 0.5, index: 0 } })).toThrow(/Data position/);
  });
});

describe("a data set", () => {
  it("is checked against the network before anything starts", () => {
    const dataset = numbered(5);
    requireFit(dataset, { channels: 1, height: 2, width: 3, classes: 3 });
    expect(() => requireFit(dataset, { channels: 3 })).toThrow(/1 channel \(gray\), the network takes 3 channels/);
    expect(() => requireFit(dataset, { channels: 1, height: 4, width: 4 })).toThrow(
      /3×2 pixels, the network takes 4×4/,
    );
    expect(() => requireFit(dataset, { channels: 1, classes: 2 })).toThrow(/3 classes, the network takes 2/);
    const { labels: _, ...plain } = dataset;
    expect(() => requireFit(plain, { channels: 1, classes: 2 })).toThrow(/has no labels/);
    expect(() => requireFit(numbered(1), { channels: 1 })).toThrow(/has 1 image; at least 2/);
  });

  it("has a fingerprint that every change of its content changes", () => {
    const first = fingerprint(numbered(5));
    expect(fingerprint(numbered(5))).toBe(first);
    const changed = numbered(5);
    changed.images[17]!++;
    const relabelled = numbered(5);
    relabelled.labels![2] = 0;
    const others = [
      changed,
      relabelled,
      numbered(5, { flip: true }),
      numbered(5, { height: 3, width: 2 }),
      numbered(4),
    ];
    expect(new Set([first, ...others.map(fingerprint)]).size).toBe(6);
  });

  it("is cut into parts without copying", () => {
    const dataset = numbered(10);
    const part = sliceOf(dataset, 4, 7);
    expect(part.count).toBe(3);
    expect(part.images.buffer).toBe(dataset.images.buffer);
    expect(imagesAt(part, [0])).toEqual(imagesAt(dataset, [4]));
    expect(part.labels).toEqual(Int32Array.of(1, 2, 0));
    expect(() => sliceOf(dataset, 7, 7)).toThrow(/it has 10/);
  });
});
