/** Optimization as graph: AdamW, clipping, averages; learning rates as numbers. */
export * from "./adamw.ts";
export * from "./clipping.ts";
export * from "./ema.ts";
export * from "./flat.ts";
export * from "./learning-rate.ts";
