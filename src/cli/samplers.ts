import type { Command } from "commander";
import { GRIDS, type NamedSampler, SAMPLERS, UNNAMED_SAMPLERS } from "../diffusion/index.ts";
import type { Console } from "./console.ts";
import { table } from "./format.ts";

/** `allegory samplers`: which there are, and when to choose which. */
export function samplersCommand(program: Command, io: Console): void {
  program
    .command("samplers")
    .summary("list the samplers and when to choose which")
    .description(
      "List every sampler: its measured order, whether it adds noise, network calls a step, when to choose it. ",
    )
    .option("--json", "print everything as JSON")
    .action(({ json }: { readonly json?: boolean }) => {
      const samplers = Object.entries<NamedSampler>(SAMPLERS).map(([name, entry]) => factsOf(name, entry));
      if (json) {
        io.json({ samplers, unnamed: UNNAMED_SAMPLERS, spreads: GRIDS });
        return;
      }
      const rows = samplers.map(({ name, order, published, stochastic, callsPerStep, when, className, options }) => [
        name,
        orderText({ order, published, stochastic }),
        stochastic ? "yes" : "no",
        String(callsPerStep),
        when,
        `${className}${options}`,
      ]);
      io.print(table([["name", "order", "noise", "calls", "when", "diffusers"], ...rows]));
      io.print("\norder: the error falls as steps^-order, measured; – where noise is added and none is measured");
      io.print("noise: whether fresh noise is added on the way; calls: network calls a step");
      io.print("\none method under several names");
      io.print(indented(table(samplers.flatMap(({ name, same }) => (same ? [[name, same]] : [])))));
      io.print("\nnetworks trained otherwise");
      for (const kind of ["flow", "edm"] as const) {
        const names = samplers.filter((sampler) => sampler[kind]).map(({ name }) => name);
        io.print(`  ${kind === "flow" ? "flow matching" : "EDM"}: ${names.join(", ")}`);
      }
      io.print("\nas a model's own scheduler only");
      io.print(indented(table(Object.entries(UNNAMED_SAMPLERS))));
      io.print("\nwithout --sampler the model's own scheduler draws; models of pixels take 20 steps");
      io.print(`\nspreads of the steps (--spread): ${GRIDS.join(", ")}`);
    });
}

function orderText({ order, published, stochastic }: Pick<NamedSampler, "order" | "published" | "stochastic">): string {
  if (order === null) return "–";
  if (stochastic) return `${order} (without its noise)`;
  return published === undefined ? String(order) : `${order} (published as ${published})`;
}

function factsOf(name: string, { config, flow, edm, ...facts }: NamedSampler) {
  const { _class_name: className, ...set } = config;
  const options = Object.entries(set)
    .map(([option, value]) => `, ${option} ${value}`)
    .join("");
  return { name, ...facts, className, options, flow: flow?._class_name, edm: edm?._class_name };
}

function indented(text: string): string {
  return text.replace(/^/gm, "  ");
}
