import { add, chunk, mul, reshape, type Tensor } from "../graph/index.ts";
import { activation } from "./activation.ts";
import { conv2d, groupNorm, type LayerInitial, linear } from "./layers.ts";
import { module } from "./module.ts";
import { downsample, upsample } from "./resampling.ts";

/** Applied where dropout belongs; the identity unless a training graph says otherwise. */
export type Dropout = (x: Tensor) => Tensor;

/** Options of a residual block. */
export interface ResnetBlockOptions {
  /** Width of the timestep embedding; undefined for blocks that do not see the timestep. */
  readonly timeChannels?: number;
  /** How the timestep enters: added before the second normalization, or as scale and shift after it. */
  readonly timeScaleShift?: "default" | "scale_shift";
  /** The embedding comes in with the activation already applied. */
  readonly skipTimeAct?: boolean;
  readonly groups?: number;
  /** Groups of the second normalization. */
  readonly groupsOut?: number;
  readonly epsilon?: number;
  readonly act?: string;
  /** The sum of both ways is divided by this. */
  readonly outputScale?: number;
  /** Halves or doubles height and width inside the block. */
  readonly resample?: "up" | "down";
  /** The input goes through a 1×1 convolution; by default where channels change. */
  readonly shortcut?: boolean;
  readonly shortcutBias?: boolean;
  readonly dropout?: Dropout;
  /** How the last convolution starts: with "zero" the block starts as the identity or its 1×1 convolution. */
  readonly outInitial?: LayerInitial;
}

/**
 * The residual block of the diffusion U-Nets (Ho et al. 2020, appendix B; scale and shift: Dhariwal & Nichol 2021):
 * norm–act–conv, timestep, norm–act–dropout–conv, plus the input through a 1×1 convolution where channels change.
 * x [n, inputs, h, w], embedding [n, timeChannels].
 */
export function resnetBlock(
  inputs: number,
  outputs: number,
  {
    timeChannels,
    timeScaleShift = "default",
    skipTimeAct = false,
    groups = 32,
    groupsOut = groups,
    epsilon = 1e-6,
    act = "silu",
    outputScale = 1,
    resample,
    shortcut = inputs !== outputs,
    shortcutBias = true,
    dropout = (x) => x,
    outInitial,
  }: ResnetBlockOptions = {},
) {
  const timeOutputs = timeScaleShift === "scale_shift" ? 2 * outputs : outputs;
  const parts = {
    norm1: groupNorm(groups, inputs, { epsilon }),
    conv1: conv2d(inputs, outputs, { padding: 1 }),
    time_emb_proj: timeChannels === undefined ? undefined : linear(timeChannels, timeOutputs),
    norm2: groupNorm(groupsOut, outputs, { epsilon }),
    conv2: conv2d(outputs, outputs, { padding: 1, initial: outInitial }),
    conv_shortcut: shortcut ? conv2d(inputs, outputs, { kernel: 1, bias: shortcutBias }) : undefined,
  };
  const activate = activation(act);
  const resize = resample && (resample === "up" ? upsample : downsample)(inputs, { conv: false });
  return module(parts, (x: Tensor, embedding?: Tensor) => {
    const { norm1, conv1, time_emb_proj, norm2, conv2, conv_shortcut } = parts;
    const activated = activate(norm1(x));
    let h = conv1(resize ? resize(activated) : activated);
    let input = resize ? resize(x) : x;
    const time = embedding && time_emb_proj?.(skipTimeAct ? embedding : activate(embedding));
    const spread = time && reshape(time, [...time.shape, 1, 1]); // [n, c or 2c, 1, 1]
    if (timeScaleShift === "scale_shift" && spread) {
      const [scale, shift] = chunk(spread, 2, 1) as [Tensor, Tensor];
      h = add(mul(norm2(h), add(scale, 1)), shift);
    } else h = norm2(spread ? add(h, spread) : h);
    h = conv2(dropout(activate(h)));
    if (conv_shortcut) input = conv_shortcut(input);
    // ONNX Runtime computes what stands last first: the shortcut, after which the block's input need not be kept.
    const sum = add(h, input);
    return outputScale === 1 ? sum : mul(sum, 1 / outputScale);
  });
}
