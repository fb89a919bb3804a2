import { expect, test } from "vitest";
import { samplerFromConfig } from "./config/index.ts";
import { tooLargeFirstStep } from "./first-step.ts";
import { namedSampler } from "./named.ts";
import { SAMPLERS } from "./sampler-table.ts";

const cosine = { _class_name: "DDPMScheduler", beta_schedule: "squaredcos_cap_v2", timestep_spacing: "trailing" };
const latent = {
  _class_name: "DDIMScheduler",
  ...{ beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 },
};

test("samplers of two calls in a step begin with too large a step where a cosine schedule ends", () => {
  const found = (steps: number) =>
    Object.keys(SAMPLERS).filter((name) => tooLargeFirstStep(namedSampler(name, cosine).plan({ steps })));
  expect(found(5)).toEqual(["heun", "dpm2", "dpm2-ancestral"]);
  // The midpoint is nearer than the end.
  expect(found(10)).toEqual(["heun", "dpm2-ancestral"]);
  const { from, to } = tooLargeFirstStep(namedSampler("heun", cosine).plan({ steps: 20 }))!;
  expect(from).toBeCloseTo(20291, 0);
  expect(to).toBeCloseTo(12.8, 1);
});

test("they do not on other schedules, later on the way, on timesteps that begin lower, or in small steps", () => {
  const heun = (model: Record<string, unknown>) => namedSampler("heun", model);
  for (const plan of [
    heun({ ...cosine, beta_schedule: "linear" }).plan({ steps: 10 }),
    heun(latent).plan({ steps: 5 }),
    heun({ ...cosine, timestep_spacing: "leading" }).plan({ steps: 10 }),
    samplerFromConfig({ ...heun(cosine).options, _class_name: "HeunDiscreteScheduler", use_karras_sigmas: true }).plan({
      steps: 20,
    }),
    heun(cosine).plan({ steps: 1 }),
  ]) {
    expect(tooLargeFirstStep(plan)).toBeUndefined();
  }
  expect(tooLargeFirstStep(heun(cosine).plan({ steps: 10 }), 4)).toBeUndefined();
});
