import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import {
  ALIGN_YOUR_STEPS,
  alignYourStepsSigmas,
  exponentialSigmas,
  karrasSigmas,
  polyexponentialSigmas,
  type SpacingOptions,
  sgmUniformTimesteps,
  spacedTimesteps,
} from "./grids.ts";

test.each<[string, number[]]>([
  ["linspace", [999, 749, 500, 250, 0]],
  ["leading", [800, 600, 400, 200, 0]],
  ["trailing", [999, 799, 599, 399, 199]],
])("five timesteps with %s spacing are those of Lin et al., table 2", (spacing, timesteps) => {
  expect(spacedTimesteps(spacing as "linspace", 5, 1000)).toEqual(timesteps);
});

test("every number of steps has as many whole timesteps of training, falling, or is refused with one that has", () => {
  const refused: Record<string, number> = {};
  for (const spacing of ["linspace", "leading", "trailing"] as const) {
    for (const options of [{}, { end: "gap" }, { offset: 1 }, { offset: 1, end: "gap" }] as SpacingOptions[]) {
      for (let steps = 1; steps <= 1000; steps++) {
        try {
          const timesteps = spacedTimesteps(spacing, steps, 1000, options);
          expect(timesteps).toHaveLength(steps);
          expect(timesteps.every((t, i) => Number.isInteger(t) && (i === 0 || t < timesteps[i - 1]!))).toBe(true);
          expect(timesteps[0]! < 1000 && timesteps.at(-1)! >= 0).toBe(true);
        } catch (error) {
          const { options: told, message } = error as UserError;
          expect(told.field, message).toBe("steps");
          const other = Number(/Ask for (\d+) steps/.exec(told.hint!)![1]);
          expect(spacedTimesteps(spacing, other, 1000, options)).toHaveLength(other);
          refused[spacing] = (refused[spacing] ?? 0) + 1;
        }
      }
    }
  }
  // Trailing always fits; linspace but for 1,000 steps with a gap; leading where its stride, rounded down, leaves a fifth.
  expect(refused).toEqual({ linspace: 2, leading: expect.any(Number) });
});

test("61 steps with trailing spacing are 61, where numpy's arange makes 62", () => {
  expect(spacedTimesteps("trailing", 61, 1000).slice(-2)).toEqual([32, 15]);
});

test("leading spacing that begins far from noise is refused", () => {
  expect(spacedTimesteps("leading", 250, 1000)[0]).toBe(996);
  expect(() => spacedTimesteps("leading", 600, 1000)).toThrow(/would start at timestep 599 of 1000/);
  expect(() => spacedTimesteps("leading", 1001, 1000)).toThrow(/trained with 1000 timesteps/);
  expect(() => spacedTimesteps("even" as "leading", 5, 1000)).toThrow(UserError);
});

test("the σ of Karras et al. fall evenly in σ^(1/7), and polyexponential ones in powers of the place", () => {
  const roots = karrasSigmas(0.002, 80, 5).map((sigma) => sigma ** (1 / 7));
  for (let i = 2; i < 5; i++) expect(roots[i]! - roots[i - 1]!).toBeCloseTo(roots[1]! - roots[0]!, 10);
  expect([karrasSigmas(0.002, 80, 5)[0], karrasSigmas(0.002, 80, 5)[4]]).toEqual([
    expect.closeTo(80, 10),
    expect.closeTo(0.002, 10),
  ]);
  polyexponentialSigmas(0.03, 14, 7).forEach((sigma, i) => {
    expect(sigma).toBeCloseTo(exponentialSigmas(0.03, 14, 7)[i]!, 10);
  });
  // log σ = log 0.03 + u² (log 14 − log 0.03) halfway, at u = 1/2.
  expect(polyexponentialSigmas(0.03, 14, 3, 2)[1]).toBeCloseTo(0.03 * (14 / 0.03) ** 0.25, 10);
});

test("uniform timesteps of SGM leave 0 out, and Align your steps is its table at ten steps", () => {
  expect(sgmUniformTimesteps(3, 1000)).toEqual([999, 666, 333]);
  const { sigmas } = ALIGN_YOUR_STEPS["stable-diffusion"];
  const ten = alignYourStepsSigmas("stable-diffusion", 10);
  expect(ten).toHaveLength(11);
  ten.slice(0, 10).forEach((sigma, i) => {
    expect(sigma).toBeCloseTo(sigmas[i]!, 10);
  });
  // Of twenty, every second is the table's, and those between are geometric means.
  const twenty = alignYourStepsSigmas("stable-diffusion", 20);
  expect([twenty[2], twenty[3]]).toEqual([expect.closeTo(6.475, 10), expect.closeTo(Math.sqrt(6.475 * 3.861), 10)]);
  expect(twenty[20]).toBe(0);
});
