/** Layers and blocks of diffusion networks, and the module tree that names their parameters. */
export * from "./activation.ts";
export { type AttentionOptions, attention, type QueryKeyNorm } from "./attention.ts";
export { type CircularAxes, withCircularPadding } from "./circular-padding.ts";
export { type FeedForwardActivation, feedForward } from "./feed-forward.ts";
export { forInference, withScoreLimit } from "./inference.ts";
export * from "./layers.ts";
export { type LowRank, type LowRankBranches, withLowRank } from "./low-rank.ts";
export * from "./module.ts";
export * from "./resampling.ts";
export { type Dropout, type ResnetBlockOptions, resnetBlock } from "./resnet-block.ts";
export * from "./timestep-embedding.ts";
export { type Transformer2DOptions, transformer2d } from "./transformer-2d.ts";
export { type TransformerBlockOptions, type TransformerInputs, transformerBlock } from "./transformer-block.ts";
