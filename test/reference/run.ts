/**
 * One judge: runs every case of a folder laid out like the reference set and prints a line for each.
 *
 *   npm run reference -- <folder> [--only <text>] [--json]
 *
 * Exit status 1 when a case fails. Cases of a kind that is not built yet are listed and do not count as passed.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { messageOf } from "../../src/core/errors.ts";
import type { Comparison, ReferenceCase } from "./case.ts";
import { caseKinds } from "./kinds.ts";

interface Outcome {
  readonly name: string;
  readonly status: "pass" | "fail" | "not built";
  /** The comparison furthest over (or nearest to) its tolerance. */
  readonly worst?: Comparison;
  readonly comparisons?: readonly Comparison[];
  readonly error?: string;
  readonly seconds?: number;
}

const command = new Command("reference")
  .argument("<folder>", "a folder laid out like the reference set")
  .option("--only <text>", "keep the cases whose name contains this")
  .option("--json", "print the outcomes as JSON")
  .parse();
const [folder] = command.args as [string];
const { only, json } = command.opts<{ only?: string; json?: boolean }>();
if (!existsSync(folder)) command.error(`There is no folder ${folder}.`, { exitCode: 2 });

const outcomes: Outcome[] = [];
for (const kind of caseKinds) {
  for (const one of await kind.discover(folder)) {
    if (only && !one.name.includes(only)) continue;
    report(await outcomeOf(one));
  }
}
for (const kind of caseKinds) {
  for (const name of (await kind.notBuilt?.(folder)) ?? []) {
    if (!only || name.includes(only)) report({ name, status: "not built" });
  }
}
for (const name of notBuiltIn(folder)) report({ name, status: "not built" });
close();

function report(outcome: Outcome): void {
  outcomes.push(outcome);
  if (!json) console.log(line(outcome));
}

async function outcomeOf(one: ReferenceCase): Promise<Outcome> {
  const started = performance.now();
  const seconds = () => Math.round(performance.now() - started) / 1000;
  try {
    const comparisons = await one.run();
    if (comparisons.length === 0) return { name: one.name, status: "fail", error: "nothing was compared" };
    const failed = comparisons.filter((comparison) => !comparison.pass);
    const [worst] = [...(failed.length > 0 ? failed : comparisons)].sort((a, b) => b.relative - a.relative);
    return { name: one.name, status: failed.length > 0 ? "fail" : "pass", worst, comparisons, seconds: seconds() };
  } catch (error) {
    return { name: one.name, status: "fail", error: messageOf(error), seconds: seconds() };
  }
}

/** What the folder holds that no kind here covers: by case where its manifest lists them, else by file or folder. */
function notBuiltIn(root: string): string[] {
  const known = new Set(caseKinds.map(({ kind }) => kind));
  const sections = readdirSync(root)
    .filter((entry) => !entry.endsWith(".md") && !entry.startsWith("manifest."))
    .map((entry) => entry.replace(/\.(json|safetensors)$/, ""))
    .filter((section) => !known.has(section));
  const path = join(root, "manifest.json");
  const { cases = [] } = existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Manifest) : {};
  const names = [...new Set(sections)].flatMap((section) => {
    const listed = cases.filter((entry) => entry.section === section).map((entry) => `${section}/${entry.case}`);
    return listed.length > 0 ? listed : [section];
  });
  return names.filter((name) => !only || name.includes(only));
}

interface Manifest {
  readonly cases?: readonly { readonly section: string; readonly case: string }[];
}

function line({ name, status, worst, error }: Outcome): string {
  const label = { pass: "pass", fail: "FAIL", "not built": "----" }[status];
  if (status === "not built") return `${label}  ${name}  this kind is not built yet`;
  if (!worst) return `${label}  ${name}  ${error?.split("\n")[0]}`;
  const numbers = `absolute ${worst.absolute.toExponential(1)}, relative ${worst.relative.toExponential(1)}`;
  return `${label}  ${name}  ${numbers} (${worst.what}; tolerance ${worst.tolerance})`;
}

function close(): void {
  const count = (status: Outcome["status"]) => outcomes.filter((outcome) => outcome.status === status).length;
  if (json) console.log(JSON.stringify(outcomes, null, 1));
  else {
    const notBuilt = count("not built");
    console.log(`${count("pass")} passed, ${count("fail")} failed${notBuilt > 0 ? `, ${notBuilt} not built` : ""}`);
  }
  process.exitCode = count("fail") > 0 ? 1 : 0;
}
