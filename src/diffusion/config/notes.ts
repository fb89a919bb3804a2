import { isSchedulerClass, OF_ANY_CLASS, SCHEDULER_OPTIONS, type SchedulerConfig } from "./options.ts";

/**
 * What to tell of the options in a configuration that its class has no use for. Those that are off, null or a number or
 * word that some class has by default ask for nothing: diffusers carries them along from class to class.
 *
 * Nothing is told of a class that is not read, and of options that no class has: reading them throws.
 */
export function notesOnConfig(config: SchedulerConfig): string[] {
  const className = config._class_name;
  if (typeof className !== "string" || !isSchedulerClass(className)) return [];
  const unused = Object.entries(config).filter(
    ([name, value]) => !Object.hasOwn(SCHEDULER_OPTIONS[className], name) && asksForSomething(name, value),
  );
  if (unused.length === 0) return [];
  const told = unused.map(([name, value]) => `${name} ${JSON.stringify(value)}`);
  return [`${className} has no use for ${told.join(", ")} of its configuration.`];
}

function asksForSomething(name: string, value: unknown): boolean {
  if (!OF_ANY_CLASS.has(name) || OF_NO_NOTE.has(name) || value === null || value === false) return false;
  const standards = Object.values<Readonly<Record<string, unknown>>>(SCHEDULER_OPTIONS).flatMap((options) =>
    Object.hasOwn(options, name) ? [options[name]] : [],
  );
  return value === true || !standards.includes(value);
}

/** `predict_epsilon` is read as the prediction type it became; most published folders leave out PNDM's start for any class. */
const OF_NO_NOTE: ReadonlySet<string> = new Set(["predict_epsilon", "skip_prk_steps"]);
