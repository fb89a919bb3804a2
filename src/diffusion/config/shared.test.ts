import { expect, test } from "vitest";
import { UserError } from "../../core/errors.ts";
import { namedSampler } from "../named.ts";
import { SAMPLERS } from "../sampler-table.ts";
import { TAKEN_BY } from "./shared.ts";

const REQUESTS = {
  eta: { eta: 0.5 },
  clippedNoise: { clippedNoise: true },
  churn: { churn: { amount: 1 } },
  order: { order: 2 },
  originalSteps: { originalSteps: 40 },
  strength: { strength: 0.5 },
} as const;

test.each(Object.keys(REQUESTS) as (keyof typeof REQUESTS)[])(
  "a sampler that does not take %s is refused with those that do",
  (field) => {
    const taken: string[] = [];
    for (const name of Object.keys(SAMPLERS)) {
      const { plan } = namedSampler(name, { _class_name: "DDPMScheduler" });
      try {
        plan({ steps: 5, ...REQUESTS[field] } as never);
        taken.push(name);
      } catch (error) {
        expect(error).toBeInstanceOf(UserError);
        expect((error as UserError).options).toMatchObject({
          field,
          hint: expect.stringContaining(TAKEN_BY[field]![0]!),
        });
      }
    }
    expect(taken).toEqual(TAKEN_BY[field]);
  },
);

test("errors of few steps name what a command line and a program can do", () => {
  const plan = (name: string, steps: number) => () =>
    namedSampler(name, { _class_name: "DDPMScheduler" }).plan({ steps });
  expect(plan("pndm", 3)).toThrow(/needs 4 steps or more; 3 were asked for.\nAsk for 4 or more, or choose plms/);
  expect(plan("lcm", 60)).toThrow(/at most 50 steps.*original_inference_steps/);
});
