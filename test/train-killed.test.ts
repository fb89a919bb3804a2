import { spawn } from "node:child_process";
import { readdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { type RecipeInput, runPaths, train } from "../src/train/index.ts";
import { loggedSteps, smallDataset, smallRecipe, standOf, temporaryFolder } from "./train-small.ts";

const child = fileURLToPath(new URL("./train-killed-child.ts", import.meta.url));

/** Runs the child and kills it `delay` ms after it has told of so many steps; null lets it finish. */
async function session(recipe: RecipeInput, kill: { steps: number; delay: number } | null): Promise<string> {
  const run = spawn(process.execPath, ["--import", "tsx", child, JSON.stringify(recipe)]);
  let told = 0;
  let errors = "";
  run.stdout.on("data", (text: Buffer) => {
    const before = told;
    told += String(text).split("\n").length - 1;
    if (kill && before < kill.steps && told >= kill.steps) setTimeout(() => run.kill("SIGKILL"), kill.delay);
  });
  run.stderr.on("data", (text: Buffer) => (errors += String(text)));
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
    run.on("close", (...how) => resolve(how));
  });
  if (code !== null && code !== 0) throw new Error(errors);
  return signal ?? "finished";
}

test("a run killed at any moments ends bit for bit like one that was not", { timeout: 300_000 }, async () => {
  const whole = await temporaryFolder();
  const killed = await temporaryFolder();
  // A checkpoint at every step: the process spends most of its time writing files.
  const changes = { classes: true, checkpointEvery: 1, keep: 2 } as const;
  await train(smallRecipe(whole, changes), { dataset: smallDataset({ classes: 3, flip: true }) });

  const ends: string[] = [];
  for (let i = 0; i < 5; i++) {
    // Spread over what a step and its checkpoint take.
    ends.push(await session(smallRecipe(killed, changes), { steps: 1 + (i % 3), delay: Math.random() * 60 }));
  }
  expect(ends.filter((end) => end === "SIGKILL").length).toBeGreaterThanOrEqual(3);
  expect(await session(smallRecipe(killed, changes), null)).toBe("finished");

  expect(await standOf(killed, 20)).toEqual(await standOf(whole, 20));
  expect(await loggedSteps(killed)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20]);
  const left = await readdir(runPaths(killed).checkpoints);
  expect(left.filter((name) => name.endsWith(".safetensors") && !name.startsWith("."))).toHaveLength(2);
  // What a killed writer left behind is cleared up when its file is written again.
  expect(left.filter((name) => name.endsWith(".tmp"))).toEqual([]);
});
