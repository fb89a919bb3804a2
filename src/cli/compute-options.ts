import { type Command, InvalidArgumentError, Option } from "commander";
import type { ComputeOptions } from "../pipelines/index.ts";

/** What the flags of `addComputeOptions` say. */
export interface ComputeFlags {
  readonly device?: ComputeOptions["device"];
  readonly threads?: number;
}

/** Adds `--device` and `--threads`. */
export function addComputeOptions(command: Command): Command {
  return command
    .addOption(new Option("--device <name>", "what to compute on (auto, cpu, cuda, webgpu; default: cpu)"))
    .addOption(
      new Option("--threads <number>", "threads (default: one for each core)").argParser((text) => {
        if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError("A whole number from 1 on is needed.");
        return Number(text);
      }),
    );
}

/** The options of a pipeline that the flags stand for. */
export function computeOptions({ device, threads }: ComputeFlags): ComputeOptions {
  return { ...(device === undefined ? {} : { device }), ...(threads === undefined ? {} : { threads }) };
}
