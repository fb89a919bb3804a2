import type { CaseKind } from "./case.ts";
import { imageCases } from "./cases/images.ts";
import { layers } from "./cases/layers.ts";
import { loraOutputs } from "./cases/lora.ts";
import { metrics } from "./cases/metrics.ts";
import { models } from "./cases/models.ts";
import { pipelines } from "./cases/pipelines.ts";
import { process } from "./cases/process.ts";
import { rng } from "./cases/rng.ts";
import { schedulers } from "./cases/schedulers.ts";
import { tokenizers } from "./cases/tokenizers.ts";
import { training } from "./cases/training.ts";

/** Every kind of reference case that is built, in the order they run. */
export const caseKinds: readonly CaseKind[] = [
  rng,
  process,
  schedulers,
  layers,
  models,
  training,
  metrics,
  tokenizers,
  pipelines,
  loraOutputs,
  imageCases,
];
