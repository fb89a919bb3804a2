/** The words Unicode's annotations have for an emoji. */
export interface EmojiWords {
  /** "smiling face with heart-eyes", "waving hand: dark skin tone" */
  readonly label: string;
  /** In alphabetical order: "eye", "face", "love" … */
  readonly tags: readonly string[];
}

/**
 * The captions of an emoji, in the forms that people ask for one:
 *
 * - its label: "red heart"
 * - the label with an article, where it names one thing: "a red heart"
 * - the label and what the tags add to it: "red heart, emotion, love"
 * - the tags alone: "emotion, heart, love, red"
 */
export function emojiCaptions(words: EmojiWords): string[] {
  const label = straightQuotes(words.label);
  const spoken = label.replaceAll(": ", ", ");
  const tags = words.tags.map(straightQuotes).filter((tag) => !contradicts(tag, label));
  const said = new Set(wordsOf(label));
  const added = tags.filter((tag) => !wordsOf(tag).every((word) => said.has(word)));
  const tone = /(?:, )?(?:[a-z-]+ )+skin tone(?:, (?:[a-z-]+ )+skin tone)?/.exec(spoken)?.[0].replace(/^, /, "");
  const captions = [
    label,
    ...(namesOneThing(label) ? [withArticle(spoken)] : []),
    [spoken, ...added].join(", "),
    // The tags are those of the emoji without a skin tone.
    ...(tags.length > 0 ? [[...tags, ...(tone ? [tone] : [])].join(", ")] : []),
  ];
  return [...new Set(captions)];
}

/** Captions are typed: ’ and “ ” are ' and ". */
function straightQuotes(text: string): string {
  return text.replace(/[‘’]/g, "'").replace(/[“”]/g, '"');
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** The annotations tag many women "man": such a tag would teach that the words mean the same. */
function contradicts(tag: string, label: string): boolean {
  return tag === "man" && /\bwom[ae]n\b/.test(label) && !/\bm[ae]n\b/.test(label);
}

/** Whether "a" can stand before a label: not before names, plurals and captions of signs ("no smoking"). */
function namesOneThing(label: string): boolean {
  if (!/^\p{Ll}/u.test(label) || /^(?:no|two|hundred|input|people|men|women|children) /.test(label)) return false;
  const [head = ""] = label.split(/:| (?:with|without|of|in|on|at|and|over|from|behind) /);
  return !/[^sui]s$/.test(head);
}

function withArticle(label: string): string {
  return `${/^(?:[aeio]|u(?!ni)|hour)/.test(label) ? "an" : "a"} ${label}`;
}
