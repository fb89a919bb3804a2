import { namedSampler, polyexponentialSigmas, samplerFromConfig } from "../src/diffusion/index.ts";

// Of a model's scheduler_config.json, what its network was trained with.
const model = { beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 };
const euler = namedSampler("euler", { _class_name: "EulerDiscreteScheduler", ...model });
const edm = namedSampler("heun", { _class_name: "EDMEulerScheduler" });

/** Runs that no name and no flag stands for: `run.sample(network, x, { noise })` draws. */
export const runs = {
  "UniPC of order 3, bh1": samplerFromConfig({
    ...model,
    ...{ _class_name: "UniPCMultistepScheduler", solver_order: 3, solver_type: "bh1" },
  }).plan({ steps: 10 }),
  "stochastic DPM-Solver++ of order 3": samplerFromConfig({
    ...model,
    ...{ _class_name: "DPMSolverMultistepScheduler", algorithm_type: "sde-dpmsolver++", solver_order: 3 },
  }).plan({ steps: 20 }),
  "EDM's stochastic Heun": edm.plan({ steps: 18, churn: { amount: 40, minimum: 0.05, maximum: 50, noise: 1.003 } }),
  "timesteps of one's own": euler.plan({ timesteps: [999, 800, 600, 400, 200, 50] }),
  "σ of one's own: polyexponential, ρ = 1.5": euler.plan({
    sigmas: [...polyexponentialSigmas(0.03, 14.6, 10, 1.5), 0],
  }),
};
