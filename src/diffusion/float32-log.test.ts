import { expect, test } from "vitest";
import { log32 } from "./float32-log.ts";

test("the logarithm of a float32 is numpy's to the bit, also where that is not the nearest one", () => {
  // numpy.log of numpy 2.4 with AVX-512. The first four are a unit or more away from the nearest float32.
  const published: [x: number, log: number][] = [
    [0.7281794548034668, -0.31720778346061707],
    [16.145122528076172, 2.781618118286133],
    [0.22847667336463928, -1.4763212203979492],
    [5.882333278656006, 1.7719535827636719],
    [1, 0],
    [2, 0.6931471824645996],
    [1.4142135381698608, 0.3465735912322998],
    [1.4142136573791504, 0.34657368063926697],
    [1.0000000031710769e-30, -69.07755279541016],
    [3.0000000054977558e38, 88.59684753417969],
  ];
  for (const [x, log] of published) expect(log32(x)).toBe(log);
  expect(published.slice(0, 4).every(([x, log]) => log !== Math.fround(Math.log(x)))).toBe(true);
});
