import { describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { chooseDevice } from "./device.ts";

const works = async () => undefined;
const fails = async () => "no driver";

describe("choosing a device", () => {
  test("takes what was asked for when it starts", async () => {
    expect(await chooseDevice("webgpu", ["cpu", "webgpu"], works)).toEqual({
      name: "webgpu",
      reason: "webgpu was asked for",
    });
  });

  test("takes CUDA for auto when it starts", async () => {
    const device = await chooseDevice("auto", ["cpu", "webgpu", "cuda"], works);
    expect(device).toEqual({ name: "cuda", reason: "auto: cuda starts on this machine" });
  });

  test("falls back to the CPU for auto, and says why and what else is there", async () => {
    const device = await chooseDevice("auto", ["cpu", "webgpu", "cuda", "tensorrt"], fails);
    expect(device).toEqual({
      name: "cpu",
      reason: "auto: cuda does not start (no driver); only taken when asked for: webgpu",
    });
    expect((await chooseDevice("auto", ["cpu"], fails)).reason).toMatch(/^auto: no GPU provider/);
  });

  test.each([
    ["cuda", "The device 'cuda' is not available here: no driver.", "Available here: cpu."],
    ["coreml", "does not contain it", "Available here: cpu."],
    ["tpu", "There is no device 'tpu'.", "Accepted are auto, cpu, cuda, webgpu, coreml, dml."],
  ] as const)("refuses %s where it is missing, with what to do", async (asked, problem, hint) => {
    const error = await chooseDevice(asked as "cuda", ["cpu", "cuda"], fails).catch((error) => error);
    expect(error).toBeInstanceOf(UserError);
    expect(error.message).toContain(problem);
    expect(error.message).toContain(hint);
    expect(error.options.field).toBe("device");
  });
});
