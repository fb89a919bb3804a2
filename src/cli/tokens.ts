import type { Command } from "commander";
import { UserError } from "../core/errors.ts";
import { type PromptToken, textToImagePipeline } from "../pipelines/index.ts";
import type { Console } from "./console.ts";
import { withDownloads } from "./downloads.ts";
import { embeddingsOption } from "./embeddings-option.ts";
import { short, table } from "./format.ts";
import { interruptible } from "./interrupt.ts";

interface TokensFlags {
  readonly model?: string;
  readonly tokenizer?: string;
  readonly variant?: string;
  readonly revision?: string;
  readonly embeddings?: readonly string[];
  readonly prompt2?: string;
  readonly weights?: boolean;
  readonly chunks?: boolean;
  readonly json?: boolean;
}

/** `allegory tokens`: what a model's text encoders see of a prompt. */
export function tokensCommand(program: Command, io: Console): void {
  program
    .command("tokens")
    .summary("show the tokens of a prompt, and what falls off its end")
    .description(
      "Show what a model's text encoders see of a prompt: its tokens, their weights, and what falls off the end.",
    )
    .argument("<prompt>", "the text")
    .option("--model <path>", "the model's folder, a safetensors file, or org/name of the hub")
    .option("--prompt2 <text>", "prompt for the second text encoder (default: the prompt)")
    .option("--weights", "read (word:1.3), (word) and [word] as weights")
    .option("--chunks", "encode long prompts in parts")
    .option("--variant <name>", "of a model whose weights all have a name, the one to open, for example fp16")
    .option("--revision <name>", "branch, tag or commit of a model of the hub (default: main)")
    .option("--tokenizer <folder>", "the tokenizer's folder, for a model in a single file")
    .addOption(embeddingsOption())
    .option("--json", "print it as JSON")
    .action((prompt: string, flags: TokensFlags) => showTokens(prompt, flags, io));
}

async function showTokens(prompt: string, flags: TokensFlags, io: Console): Promise<void> {
  const { model, tokenizer, variant, revision, prompt2 = prompt, weights = false, chunks = false, json } = flags;
  if (model === undefined) {
    throw new UserError("No model was given.", {
      hint: "Give --model with a folder in diffusers' layout.",
      field: "model",
    });
  }
  const pipe = await interruptible(
    () => io.remark("Stopping. Ctrl-C again ends at once."),
    (signal) =>
      withDownloads({ io, signal, revision }, (hub) =>
        textToImagePipeline(model, { tokenizer, variant, hub, embeddings: flags.embeddings }),
      ),
  );
  try {
    const request = { prompt, ...(flags.prompt2 === undefined ? {} : { prompt2 }), weights, chunks };
    // Refuses what this model has no use for.
    pipe.resolve(request);
    const tables = pipe.tokens(request);
    if (json) {
      io.json({ model, encoders: tables });
      return;
    }
    for (const [i, { encoder, room, tokens, dropped }] of tables.entries()) {
      if (i > 0) io.print("");
      const text = tokens.filter(({ kind }) => kind === "text");
      const parts = new Set(tokens.flatMap(({ chunk }) => chunk ?? [])).size;
      const place = parts > 1 ? `${parts} parts of ${room}` : String(room);
      io.print(`${encoder}: ${text.length} tokens; it takes ${place}`);
      io.print(table([["position", "id", "token", ...(weights ? ["weight"] : [])], ...rowsOf(tokens, weights)]));
      if (dropped !== "") io.print(`not seen: ${JSON.stringify(dropped)}`);
    }
  } finally {
    await pipe.close();
  }
}

/** Rows of what is no padding; what fell off the end has no position. */
function rowsOf(tokens: readonly PromptToken[], weights: boolean): string[][] {
  return tokens
    .filter(({ kind }) => kind !== "padding")
    .map(({ position, id, text, weight }) => [
      position === undefined ? "-" : String(position),
      String(id),
      text,
      ...(weights ? [short(weight)] : []),
    ]);
}
