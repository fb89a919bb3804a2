import { activation } from "./activation.ts";
import { attention } from "./attention.ts";
import { conv } from "./conv.ts";
import { elementwise } from "./elementwise.ts";
import { leaf } from "./leaf.ts";
import { matmul } from "./matmul.ts";
import { normalization } from "./normalization.ts";
import { reduce } from "./reduce.ts";
import type { Samples } from "./sample.ts";
import { shape } from "./shape.ts";

/** Samples with their reference for every operator, by its name. A new operator gets its entry in its family's file. */
export const samples: Samples = {
  ...leaf,
  ...elementwise,
  ...reduce,
  ...shape,
  ...matmul,
  ...activation,
  ...attention,
  ...normalization,
  ...conv,
};
