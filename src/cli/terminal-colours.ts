import type { Output } from "./progress-line.ts";

/** The colours that a stream can show, by the conventions of NO_COLOR, FORCE_COLOR and COLORTERM. */
export function terminalColours(stream: Output, environment: NodeJS.ProcessEnv = process.env): "true" | "256" | "none" {
  const { NO_COLOR, FORCE_COLOR, COLORTERM, TERM } = environment;
  if (NO_COLOR) return "none";
  const forced = FORCE_COLOR !== undefined && FORCE_COLOR !== "0";
  if (!forced && (!stream.isTTY || TERM === "dumb")) return "none";
  return FORCE_COLOR === "3" || /truecolor|24bit/i.test(COLORTERM ?? "") ? "true" : "256";
}
