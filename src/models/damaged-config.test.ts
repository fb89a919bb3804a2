import { readdir, readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { namedParameters } from "../nn/module.ts";
import { networkName, networks } from "./index.ts";
import { matchWeights, type StoredWeight } from "./weights.ts";

const folder = fileURLToPath(new URL("../../test/fixtures/reference/models", import.meta.url));
const RUNS = 300;
const SLOWEST_MS = 2_000;

/** What a damaged or hostile file may hold in place of a value. */
const anything = fc.oneof(
  fc.constantFrom(
    null,
    true,
    false,
    "",
    "silu",
    [],
    {},
    [[]],
    -1,
    0,
    0.5,
    3,
    7,
    1e3,
    1e6,
    2 ** 24,
    1e12,
    1e308,
    -1e308,
  ),
  fc.integer({ min: -4, max: 600 }),
  fc.double(),
  fc.array(fc.integer({ min: -1, max: 600 }), { maxLength: 80 }),
  fc.json(),
);

for (const name of await readdir(folder)) {
  test(`damaged configurations of ${name} are refused by name or make a network`, async () => {
    const config = JSON.parse(await readFile(`${folder}/${name}/config.json`, "utf8")) as Record<string, unknown>;
    const build = networks[networkName(config)];
    const whole = build(config);
    const weights = new Map<string, StoredWeight>(
      [...namedParameters(whole)].map(([key, { shape }]) => [
        key,
        { dtype: "float32", shape, file: "w.safetensors", offset: 0, length: 4 },
      ]),
    );
    expect(matchWeights(whole, weights).size).toBe(weights.size);

    let refused = 0;
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(config)), anything, fc.boolean(), (field, value, nested) => {
        const old = config[field];
        // Inside a list, or in place of the whole value.
        const damaged = nested && Array.isArray(old) ? [...old.slice(0, -1), value] : value;
        const start = performance.now();
        try {
          matchWeights(build({ ...config, [field]: damaged }), weights);
        } catch (error) {
          if (!(error instanceof UserError)) throw error;
          refused++;
        }
        expect(performance.now() - start).toBeLessThan(SLOWEST_MS);
      }),
      { numRuns: RUNS, seed: 1 },
    );
    expect(refused).toBeGreaterThan(RUNS / 10);
  });
}
