import { describe, expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { matchingNames } from "./name-patterns.ts";

const NAMES = ["unet.conv_in.weight", "unet.conv_in.bias", "unet.mid.to_q.weight", "text_encoder.mid.q_proj.weight"];

describe("patterns of names", () => {
  test("mean whole names, a star any run of characters, dots included", () => {
    const matching = (...patterns: string[]) => [...matchingNames(patterns, NAMES, "field")];
    expect(matching("*")).toEqual(NAMES);
    expect(matching("unet.*.weight")).toEqual(["unet.conv_in.weight", "unet.mid.to_q.weight"]);
    expect(matching("unet.conv_in.bias", "*q*")).toEqual([NAMES[1], NAMES[2], NAMES[3]]);
    expect(() => matching("conv_in")).toThrow("fits none");
  });

  test("are text where they are no star", () => {
    expect(() => matchingNames(["unet.conv.in.weight"], NAMES, "field")).toThrow("fits none");
    expect(() => matchingNames(["unet.conv_in.w[a-z]+"], NAMES, "field")).toThrow("fits none");
  });

  test("that fit nothing are an error which says what was meant", () => {
    const fault = (pattern: string): UserError["options"] => {
      try {
        matchingNames([pattern], NAMES, "method.trainable");
      } catch (error) {
        if (error instanceof UserError) return error.options;
      }
      throw new Error(`${pattern} was accepted`);
    };
    expect(fault("unet.conv_in")).toMatchObject({
      field: "method.trainable",
      hint: expect.stringContaining("unet.conv_in.*"),
    });
    expect(fault("unet.conv_im.bias").hint).toContain("unet.conv_in.bias");
    expect(fault("vae.*").hint).toContain(NAMES[0]);
  });
});
