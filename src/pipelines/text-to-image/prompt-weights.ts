import { UserError } from "../../core/errors.ts";

/** A stretch of a prompt and how much it counts: 1 is as much as any word. */
export interface WeightedText {
  readonly text: string;
  readonly weight: number;
}

/** What a pair of brackets without a number stands for. */
const STEP = 1.1;

/**
 * Reads a prompt in the manner of AUTOMATIC1111's web UI: `(word:1.3)` counts 1.3 times, `(word)` 1.1 times, `[word]`
 * as much less; brackets multiply inside each other, and a backslash before a bracket makes it a letter.
 *
 * @throws UserError for brackets without a partner
 */
export function parsePromptWeights(prompt: string): WeightedText[] {
  const pieces: { text: string; weight: number }[] = [];
  // Of each open bracket: which, where it stands, and the piece that follows it.
  const open: { bracket: "(" | "["; at: number; first: number }[] = [];
  const say = (text: string) => {
    const last = pieces.at(-1);
    // A piece is closed when a bracket begins or ends.
    if (last && open.every(({ first }) => first < pieces.length) && !closed) last.text += text;
    else pieces.push({ text, weight: 1 });
    closed = false;
  };
  const weigh = (first: number, factor: number) => {
    for (const piece of pieces.slice(first)) piece.weight *= factor;
    closed = true;
  };
  let closed = false;
  const tokens = /\\[()[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()[\]]|[^\\()[\]:]+|[\s\S]/g;
  for (const match of prompt.matchAll(tokens)) {
    const [token, factor] = match;
    const inner = open.at(-1);
    if (token.length === 2 && token.startsWith("\\")) say(token[1]!);
    else if (token === "(" || token === "[") {
      open.push({ bracket: token, at: match.index, first: pieces.length });
    } else if (factor !== undefined && inner?.bracket === "(") {
      open.pop();
      weigh(inner.first, Number(factor));
    } else if ((token === ")" && inner?.bracket === "(") || (token === "]" && inner?.bracket === "[")) {
      open.pop();
      weigh(inner.first, token === ")" ? STEP : 1 / STEP);
    } else if (token === ")" || token === "]" || factor !== undefined) {
      throw unpaired(prompt, match.index, token.at(-1)!);
    } else say(token);
  }
  const [left] = open;
  if (left) throw unpaired(prompt, left.at, left.bracket);
  const spoken = pieces.filter(({ text }) => text !== "");
  return spoken.length > 0 ? spoken : [{ text: "", weight: 1 }];
}

function unpaired(prompt: string, at: number, bracket: string): UserError {
  return new UserError(`The bracket ${bracket} at "${prompt.slice(at, at + 20)}" has no partner.`, {
    hint: `Close it, write \\${bracket} where the bracket itself is meant, or turn \`weights\` off.`,
    field: "prompt",
  });
}
