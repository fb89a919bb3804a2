import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const root = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);

/** Builds and packs the package as publishing would; returns the path of the archive. */
export async function pack(folder: string): Promise<string> {
  // .npmrc forbids scripts that run by themselves, `prepack` among them.
  await run("npm", ["run", "build"], { cwd: root });
  const { stdout } = await run("npm", ["pack", "--json", "--pack-destination", folder], { cwd: root });
  // What the build prints stands before npm's own JSON.
  const [{ filename }] = JSON.parse(stdout.slice(stdout.indexOf("[\n"))) as [{ filename: string }];
  return join(folder, filename);
}

/** The package's sub-paths that are modules: `allegory`, `allegory/graph` … */
export async function modules(): Promise<string[]> {
  const { exports } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { exports: object };
  return Object.keys(exports)
    .filter((path) => !path.endsWith(".json"))
    .map((path) => `allegory${path.slice(1)}`);
}

/** What someone who uses the package would write: the example of the design, with types that must hold and not hold. */
const PROGRAM = `
import { pipeline, type Recipe, saveGrid, train, UserError } from "allegory";
import { cosineSchedule, type NoiseSchedule } from "allegory/diffusion";
export async function program(recipe: Recipe, signal: AbortSignal): Promise<number> {
  const { step } = await train({ data: "faces/", size: 32, run: recipe.run, channels: [64, 128] }, { signal });
  const faces = await pipeline("unconditional-image-generation", recipe.run, { device: "cpu" });
  for await (const state of faces.stream({ count: 4, sampler: "ddim", eta: 0.5 }, { signal })) state.preview();
  await saveGrid("faces.png", await faces.generate({ count: 16, sampler: "heun", steps: 18, seed: 0 }));
  // @ts-expect-error no sampler has this name
  await faces.generate({ sampler: "huen" });
  // @ts-expect-error it is called steps
  await train({ data: "faces/", run: "runs/faces", stesp: 3 });
  const schedule: NoiseSchedule = cosineSchedule({ steps: 10 });
  return step + schedule.steps + Number(UserError.length);
}
`;

/** Writes an empty project that uses every sub-path, to be type-checked strictly, declarations of packages included. */
export async function writeConsumer(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const imports = (await modules()).map((name, i) => `import * as part${i} from "${name}";\nvoid part${i};`).join("\n");
  const compilerOptions = {
    module: "nodenext",
    target: "es2022",
    strict: true,
    noEmit: true,
    skipLibCheck: false,
    types: [],
  };
  await writeFile(join(folder, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
  await writeFile(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
  await writeFile(join(folder, "program.ts"), `${imports}\n${PROGRAM}`);
}

/** The output of the compiler on a project; empty when it has nothing to say. */
export async function typeErrors(folder: string): Promise<string> {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  return run(process.execPath, [tsc, "-p", folder]).then(
    () => "",
    (error: { stdout: string }) => error.stdout,
  );
}

/** What a program prints. */
export async function output(command: string, words: readonly string[], folder: string): Promise<string> {
  const { stdout } = await run(command, [...words], { cwd: folder });
  return stdout.trim();
}
