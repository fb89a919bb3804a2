import { describe, expect, test } from "vitest";
import { float32 } from "../core/host-tensor.ts";
import { seeded } from "../core/random.ts";
import { peakSignalToNoise, structuralSimilarity } from "./image-quality.ts";

const shape = [2, 3, 16, 20];
const original = seeded(0).uniform(shape, { low: -1, high: 1 });

describe("the quality of reconstructed images", () => {
  test("is infinite and 1 for equal images", () => {
    expect(peakSignalToNoise(original, original)).toEqual([Infinity, Infinity]);
    for (const value of structuralSimilarity(original, original)) expect(value).toBeCloseTo(1, 12);
  });

  test("is 10·log₁₀(4/0.01) dB where every value of images in −1…1 is off by 0.1", () => {
    const off = float32(
      shape,
      original.data.map((value) => value + 0.1),
    );
    for (const value of peakSignalToNoise(off, original)) expect(value).toBeCloseTo(10 * Math.log10(400), 3);
  });

  test("of two constant images follows from their brightness alone", () => {
    const [a, b] = [0.5, -0.25];
    const [one, other] = [a, b].map((value) => float32(shape, new Float32Array(2 * 3 * 16 * 20).fill(value))) as [
      typeof original,
      typeof original,
    ];
    const c1 = 0.02 ** 2;
    const expected = (2 * a * b + c1) / (a * a + b * b + c1);
    for (const value of structuralSimilarity(one, other)) expect(value).toBeCloseTo(expected, 9);
  });

  test("in one window is that of its weighted means, variances and covariance", () => {
    const [x, y] = [seeded(1).uniform([1, 1, 11, 11]), seeded(2).uniform([1, 1, 11, 11])];
    const weight = (k: number) => Math.exp(-((k - 5) ** 2) / 4.5);
    const weights = Array.from({ length: 121 }, (_, i) => weight(i % 11) * weight(Math.floor(i / 11)));
    const total = weights.reduce((sum, one) => sum + one, 0);
    const mean = (of: (i: number) => number) => weights.reduce((sum, w, i) => sum + (w / total) * of(i), 0);
    const [mx, my] = [mean((i) => x.data[i]!), mean((i) => y.data[i]!)];
    const vx = mean((i) => (x.data[i]! - mx) ** 2);
    const vy = mean((i) => (y.data[i]! - my) ** 2);
    const covariance = mean((i) => (x.data[i]! - mx) * (y.data[i]! - my));
    const [c1, c2] = [0.01 ** 2, 0.03 ** 2];
    const expected = ((2 * mx * my + c1) * (2 * covariance + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2));
    expect(structuralSimilarity(x, y, 1)[0]).toBeCloseTo(expected, 9);
  });

  test("falls as noise grows, and each image has a value of its own", () => {
    const noise = seeded(3).normal(shape);
    const noisy = (amount: number) =>
      float32(
        shape,
        original.data.map((value, i) => value + (i < original.data.length / 2 ? amount : 2 * amount) * noise.data[i]!),
      );
    const [little, much] = [noisy(0.05), noisy(0.2)].map((images) => structuralSimilarity(images, original)) as [
      number[],
      number[],
    ];
    expect(little[0]).toBeGreaterThan(little[1]!);
    expect(little[1]).toBeGreaterThan(much[0]!);
    expect(much[0]).toBeGreaterThan(much[1]!);
  });

  test("refuses images of different shapes and images without a window", () => {
    expect(() => peakSignalToNoise(original, seeded(0).uniform([2, 3, 16, 16]))).toThrow(/cannot be compared/);
    const small = seeded(0).uniform([1, 1, 8, 16]);
    expect(() => structuralSimilarity(small, small)).toThrow(/no window of 11×11/);
  });
});
