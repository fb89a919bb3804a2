import { UserError } from "../core/errors.ts";
import { sizeOf } from "../core/host-tensor.ts";
import { chunk, concat, gelu, mul, quickGelu, reshape, silu, split, type Tensor } from "../graph/index.ts";
import { graphPurpose } from "./inference.ts";
import { type LayerInitial, linear } from "./layers.ts";
import { group, module } from "./module.ts";

/** How many values of the first layer go into one hidden value, and what becomes of them. */
interface Hidden {
  readonly widths: 1 | 2;
  readonly activate: (x: Tensor) => Tensor;
}

/** The first half times a function of the second (Shazeer 2020, gated linear units). */
function gated(gate: (x: Tensor) => Tensor): Hidden {
  return {
    widths: 2,
    activate: (x) => {
      const [value, gates] = chunk(x, 2, -1) as [Tensor, Tensor];
      return mul(value, gate(gates));
    },
  };
}

const plain = (activate: (x: Tensor) => Tensor): Hidden => ({ widths: 1, activate });

/** The hidden layers by the names diffusers gives them. */
const HIDDEN = {
  gelu: plain((x) => gelu(x)),
  "gelu-approximate": plain((x) => gelu(x, "tanh")),
  geglu: gated((x) => gelu(x)),
  // Despite its name not gated.
  "geglu-approximate": plain(quickGelu),
  swiglu: gated(silu),
  "linear-silu": plain(silu),
} as const satisfies Record<string, Hidden>;

/** Names of hidden layers. */
export type FeedForwardActivation = keyof typeof HIDDEN;

/** Products of fewer rows pay too much for packing the weights. */
const FEWEST_ROWS = 256;

/** How `rows` are cut so that each piece has at most `most`: evenly where few more pieces do, since their buffers serve each other. */
function pieceSizes(rows: number, most: number): number[] {
  const pieces = Math.ceil(rows / most);
  for (let n = pieces; n < 2 * pieces; n++) if (rows % n === 0) return Array(n).fill(rows / n);
  const size = Math.ceil(rows / pieces);
  return Array.from({ length: Math.ceil(rows / size) }, (_, i) => Math.min(size, rows - i * size));
}

/**
 * Two linear layers over each token with an activation between: [..., width] → [..., outputs]. Hidden width `mult` times
 * the width unless `inner` says otherwise. In a graph for inference many tokens are taken some at a time.
 *
 * @throws UserError for an activation that is not known
 */
export function feedForward(
  width: number,
  {
    outputs = width,
    mult = 4,
    act = "geglu",
    inner = width * mult,
    bias = true,
    initial,
  }: {
    outputs?: number;
    mult?: number;
    act?: string;
    inner?: number;
    bias?: boolean;
    initial?: LayerInitial;
  } = {},
) {
  const hidden = Object.hasOwn(HIDDEN, act) ? HIDDEN[act as FeedForwardActivation] : undefined;
  if (!hidden) {
    throw new UserError(
      `There is no feed-forward activation "${act}"; accepted are ${Object.keys(HIDDEN).join(", ")}.`,
    );
  }
  const parts = {
    // The number between is dropout in Python.
    net: group({
      0: group({ proj: linear(width, inner * hidden.widths, { bias, initial }) }),
      2: linear(inner, outputs, { bias, initial }),
    }),
  };
  const { 0: first, 2: second } = parts.net.parts;
  const forward = (x: Tensor) => second(hidden.activate(first.parts.proj(x)));
  const rowBytes = 4 * inner * hidden.widths;
  return module(parts, (x: Tensor) => {
    const rows = sizeOf(x.shape) / width;
    const mostRows = Math.max(FEWEST_ROWS, Math.floor(graphPurpose().hiddenBytes / rowBytes));
    if (rows <= mostRows) return forward(x);
    const pieces = split(reshape(x, [rows, width]), pieceSizes(rows, mostRows), 0);
    return reshape(concat(pieces.map(forward), 0), [...x.shape.slice(0, -1), outputs]);
  });
}
