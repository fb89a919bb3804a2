import { UserError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";

/**
 * The names that patterns mean. `*` in a pattern stands for any run of characters, dots included; the rest is taken as it
 * is, and the whole name must fit.
 *
 * @param field what the patterns were given as
 * @throws UserError for a pattern that fits no name, saying what names begin like it
 */
export function matchingNames(patterns: readonly string[], names: Iterable<string>, field: string): Set<string> {
  const all = [...names];
  const found = new Set<string>();
  for (const pattern of patterns) {
    const fits = all.filter((name) => expressionOf(pattern).test(name));
    if (fits.length === 0) throw nothingFits(pattern, all, field);
    for (const name of fits) found.add(name);
  }
  return found;
}

function expressionOf(pattern: string): RegExp {
  const literal = pattern.split("*").map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${literal.join(".*")}$`);
}

function nothingFits(pattern: string, names: readonly string[], field: string): UserError {
  const alone = names.find((name) => name.startsWith(`${pattern}.`));
  const similar = nearest(pattern, names);
  const examples = [names[0], names[Math.floor(names.length / 2)], names.at(-1)];
  const hint = alone
    ? `\`*\` stands for any characters: “${pattern}.*” means ${alone} and what else begins like it.`
    : similar
      ? `Did you mean ${similar}?`
      : `Names are such as ${[...new Set(examples)].join(", ")}; \`*\` stands for any characters.`;
  return new UserError(`The pattern “${pattern}” fits none of the ${names.length} names.`, { hint, field });
}
