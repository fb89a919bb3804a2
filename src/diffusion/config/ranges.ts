import { UserError } from "../../core/errors.ts";

/**
 * Throws for numbers that no schedule can be laid out with, and names the option: a negative β, ends of σ that are the
 * wrong way round.
 */
export function checkRanges(className: string, options: Readonly<Record<string, unknown>>): void {
  const numbers: [name: string, accepted: string, holds: (value: number) => boolean][] = [
    ["num_train_timesteps", "a whole number of 1 or more", (n) => Number.isInteger(n) && n >= 1],
    ["beta_start", "a number from 0 to 1", isShare],
    ["beta_end", "a number from 0 to 1", isShare],
    ["sigma_min", "a number above 0", isPositive],
    ["sigma_max", "a number above 0", isPositive],
    ["sigma_data", "a number above 0", isPositive],
    ["rho", "a number above 0", isPositive],
    ["shift", "a number above 0", isPositive],
    ["flow_shift", "a number above 0", isPositive],
    ["clip_sample_range", "a number above 0", isPositive],
    ["dynamic_thresholding_ratio", "a number from 0 to 1", isShare],
  ];
  for (const [name, accepted, holds] of numbers) {
    const value = options[name];
    if (typeof value === "number" && !holds(value)) throw outside(className, name, value, accepted);
  }
  const { trained_betas: betas, sigma_min: low, sigma_max: high } = options;
  if (Array.isArray(betas) && !betas.every(isShare))
    throw outside(className, "trained_betas", betas, "numbers from 0 to 1");
  if (typeof low === "number" && typeof high === "number" && low >= high) {
    throw outside(className, "sigma_min", low, `a number below sigma_max, ${high}`);
  }
}

const isShare = (value: number) => value >= 0 && value <= 1;
const isPositive = (value: number) => value > 0;

function outside(className: string, field: string, value: unknown, accepted: string): UserError {
  const text = JSON.stringify(value);
  return new UserError(`${className} option "${field}" is ${text.length > 60 ? `${text.slice(0, 60)}…` : text}.`, {
    hint: `Accepted is ${accepted}.`,
    field,
  });
}
