import { UserError } from "../core/errors.ts";
import type { Device, DeviceName } from "./session.ts";

/** What `"auto"` tries, best first; the CPU is what remains. */
const AUTO: readonly DeviceName[] = ["cuda"];

const KNOWN: readonly DeviceName[] = ["cpu", "cuda", "webgpu", "coreml", "dml"];

/**
 * Picks the device for a session.
 *
 * @param asked what the user wants
 * @param listed the providers this build of ONNX Runtime was compiled with
 * @param failure tries a device: undefined when it works, else the reason in words
 * @throws UserError when the device asked for is unknown, not in this build, or does not start; it says what is there
 */
export async function chooseDevice(
  asked: DeviceName | "auto",
  listed: readonly string[],
  failure: (device: DeviceName) => Promise<string | undefined>,
): Promise<Device> {
  const available = KNOWN.filter((device) => listed.includes(device));
  if (asked === "auto") {
    const reasons: string[] = [];
    for (const device of AUTO) {
      if (!available.includes(device)) continue;
      const why = await failure(device);
      if (why === undefined) return { name: device, reason: `auto: ${device} starts on this machine` };
      reasons.push(`${device} does not start (${why})`);
    }
    const others = available.filter((device) => device !== "cpu" && !AUTO.includes(device));
    const found = reasons.length > 0 ? reasons.join("; ") : "no GPU provider that auto would take is in this build";
    const hint = others.length > 0 ? `; only taken when asked for: ${others.join(", ")}` : "";
    return { name: "cpu", reason: `auto: ${found}${hint}` };
  }
  if (!KNOWN.includes(asked)) {
    throw new UserError(`There is no device '${asked}'.`, {
      field: "device",
      hint: `Accepted are auto, ${KNOWN.join(", ")}.`,
    });
  }
  const why = available.includes(asked)
    ? asked === "cpu"
      ? undefined
      : await failure(asked)
    : `this build of ONNX Runtime for ${process.platform}-${process.arch} does not contain it`;
  if (why === undefined) return { name: asked, reason: `${asked} was asked for` };
  const working: string[] = [];
  for (const device of available) {
    if (device !== asked && (device === "cpu" || (await failure(device)) === undefined)) working.push(device);
  }
  throw new UserError(`The device '${asked}' is not available here: ${why}.`, {
    field: "device",
    hint: `Available here: ${working.join(", ")}. Choose one of these, or 'auto'.`,
  });
}
