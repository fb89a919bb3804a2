import type { Command } from "commander";
import { encode, encodeSchema } from "../train/index.ts";
import type { Console } from "./console.ts";
import { duration, short, whole } from "./format.ts";
import { Interrupted, interruptible } from "./interrupt.ts";
import { progressLine } from "./progress-line.ts";
import { addSchemaOptions, givenOptions } from "./schema-options.ts";

/** `allegory encode`: a data set as latents. */
export function encodeCommand(program: Command, io: Console): void {
  const command = program
    .command("encode")
    .summary("encode pictures as latents, once, for training")
    .description(
      "Run a data set through an autoencoder once and keep the moments of every picture, with captions and classes, in " +
        "safetensors files. The same command again continues what was stopped.",
    )
    .argument("<data>", `${encodeSchema.shape.data.description}`);
  addSchemaOptions(command, encodeSchema, ["data"]);
  command.option("--json", "print progress and result as lines of JSON");
  command.action(async (data: string, { json }: { json?: boolean }) => {
    const input = { ...givenOptions(command, encodeSchema), data } as Parameters<typeof encode>[0];
    const announce = () => io.remark("Stopping. What is finished is kept: the same command continues.");
    await interruptible(announce, (signal) => encodeWithProgress(input, json === true, io, signal));
  });
}

async function encodeWithProgress(
  input: Parameters<typeof encode>[0],
  json: boolean,
  io: Console,
  signal: AbortSignal,
): Promise<void> {
  const progress = progressLine(io.out);
  try {
    const result = await encode(input, {
      signal,
      onWarning: (warning) => (json ? io.json({ event: "warning", warning }) : progress.note(`note: ${warning}`)),
      onProgress({ done, total, secondsLeft }) {
        if (json) io.json({ event: "encoded", done, total, secondsLeft });
        else {
          const left = secondsLeft === undefined ? "" : `  ETA ${duration(secondsLeft)}`;
          progress.update(`${done}/${total} images${left}`);
        }
      },
    });
    if (json) {
      io.json({ event: "ended", ...result });
      return;
    }
    progress.end();
    const { folder, count, encoded, measured, scalingFactor, shiftFactor } = result;
    const earlier = encoded < count ? ` (${whole(count - encoded)} of them earlier)` : "";
    io.print(`${folder}: ${whole(count)} images encoded${earlier}.`);
    const shift = shiftFactor === 0 ? "" : `, shift factor ${shiftFactor.toPrecision(5)}`;
    const from = measured
      ? `measured: mean ${short(measured.mean)}, deviation ${short(measured.deviation)}`
      : "the autoencoder's own";
    io.print(`Scaling factor ${scalingFactor.toPrecision(5)}${shift} (${from}).`);
    if (measured && !input.writeScaling) {
      io.print("The autoencoder's configuration does not have it: --write-scaling writes it there.");
    }
  } catch (error) {
    if (error instanceof Interrupted && !json) progress.note("Stopped; the same command continues.");
    throw error;
  } finally {
    if (!json) progress.end();
  }
}
