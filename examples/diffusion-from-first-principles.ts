import { float32, type HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import * as diffusion from "../src/diffusion/index.ts";
import * as graph from "../src/graph/index.ts";
import { bindWeights, initialize } from "../src/models/index.ts";
import { linear, module, sinusoids } from "../src/nn/index.ts";
import { adamwScalars, packed, unpacked } from "../src/optim/index.ts";
import { openSession } from "../src/runtime/index.ts";
import { diffusionLoss, scalarFeeds, trainingStep } from "../src/train/index.ts";

const COUNT = 4000;
const PEAKS = [
  { share: 0.3, mean: -0.6, std: 0.05 },
  { share: 0.7, mean: 0.5, std: 0.15 },
];
const random = seeded(0);
const draw = () => random.normal([COUNT, 1, 1, 1]);

const left = random.bernoulli(PEAKS[0]!.share, [COUNT]).data;
const data = float32(
  [COUNT, 1, 1, 1],
  draw().data.map((value, i) => {
    const { mean, std } = PEAKS[left[i] === 1 ? 0 : 1]!;
    return mean + std * value;
  }),
);
show("data", data);

/** A line with the share of numbers in each of 50 bins from −2.5 to 2.5. */
function show(name: string, { data: numbers }: diffusion.Samples): void {
  const bins = new Array<number>(50).fill(0);
  for (const value of numbers) bins[Math.min(Math.max(Math.floor((value + 2.5) * 10), 0), 49)]!++;
  const bars = bins.map((count) => " ▁▂▃▄▅▆▇█"[Math.ceil((8 * Math.min(count, 600)) / 600)]);
  const below = numbers.filter((value) => value < 0).length / numbers.length;
  console.log(`${name.padEnd(22)}|${bars.join("")}| ${(100 * below).toFixed(0)} % below 0`);
}

const schedule = diffusion.cosineSchedule({ steps: 1000 });
for (const t of [100, 300, 600, 999]) show(`noised to t = ${t}`, diffusion.addNoise(schedule, data, draw(), t));

let stepwise = data;
for (let t = 0; t <= 300; t++) stepwise = diffusion.forwardStep(schedule, stepwise, draw(), t);
show("one step at a time", stepwise);

let x = diffusion.addNoise(schedule, data, draw(), 300);
for (let t = 300; t > 100; t--) {
  const back = diffusion.posterior(schedule, t);
  x = diffusion.reverseStep(x, data, back, Math.sqrt(back.variance), draw());
}
show("200 steps back", x);

/** E[x0 | x] of the two peaks, by Bayes' rule. */
function bestGuess(x: number, alpha: number, sigma: number): number {
  let [total, sum] = [0, 0];
  for (const { share, mean, std } of PEAKS) {
    const variance = (alpha * std) ** 2 + sigma ** 2;
    const away = x - alpha * mean;
    const density = (share * Math.exp((-0.5 * away ** 2) / variance)) / Math.sqrt(variance);
    total += density;
    sum += density * (mean + ((alpha * std ** 2) / variance) * away);
  }
  return sum / total;
}

const exact: diffusion.Network = async (x, _, { level: { alpha, sigma } }) => {
  const size = Math.hypot(alpha, sigma); // some samplers scale x; here it is of the path α² + σ² = 1 again
  const [a, s] = [alpha / size, sigma / size];
  return float32(
    x.shape,
    x.data.map((value) => (value - a * bestGuess(value, a, s)) / s),
  );
};

const model = { _class_name: "DDPMScheduler", beta_schedule: "squaredcos_cap_v2", clip_sample: false };

async function sampled(network: diffusion.Network, sampler: string, steps: number): Promise<void> {
  const plan = diffusion.namedSampler(sampler, model).plan({ steps });
  const unit = draw();
  const first = float32(
    unit.shape,
    unit.data.map((value) => value * plan.initNoiseSigma),
  );
  const end = await diffusion.finished(plan.sample(network, first, { noise: diffusion.noiseFrom(random) }), first);
  show(`${sampler}, ${plan.timesteps.length} calls`, end);
}

await sampled(exact, "ddpm", 1000);
await sampled(exact, "ddpm", 20);
await sampled(exact, "ddim", 20);
await sampled(exact, "heun", 10);
await sampled(exact, "dpm++2m", 20);

const parts = { first: linear(1 + 16, 64), second: linear(64, 64), last: linear(64, 1) };
const network = module(parts, (x: graph.Tensor, t: graph.Tensor) => {
  const features = graph.concat([graph.reshape(x, [x.shape[0]!, 1]), sinusoids(t, 16)], 1); // [n, 17]
  const hidden = graph.silu(parts.second(graph.silu(parts.first(features))));
  return graph.reshape(parts.last(hidden), x.shape);
});

const shape = [500, 1, 1, 1];
const loss = diffusionLoss(
  network,
  { schedule, predict: "noise" },
  { x0: graph.input("x0", shape), noise: graph.input("noise", shape), timesteps: graph.input("t", [500], "int64") },
);
const step = trainingStep(network, loss, { clip: 1 });
const training = await openSession(step.model.bytes, { resident: step.resident, threads: 1 });
const start = float32([step.layout.size], packed(initialize(network, random), step.layout));
const zeros = float32([step.layout.size], new Float32Array(step.layout.size));
for (const [name, value] of Object.entries({ parameters: start, mean: zeros, square: zeros, average: start })) {
  await training.write(`state.${name}`, value);
}
let recent = 0;
for (let n = 1; n <= 3000; n++) {
  const from = random.integer(0, COUNT - 500);
  const result = await training.run({
    x0: float32(shape, data.data.slice(from, from + 500)),
    noise: random.normal(shape),
    t: random.integers(0, 1000, [500]),
    ...scalarFeeds(step, { ...adamwScalars(n, 2e-3), averaging: Math.max(1 / n, 0.005) }),
  });
  recent += (result.loss!.data[0] as number) / 1000;
  if (n % 1000 === 0) {
    console.log(`learned: loss of steps ${n - 999} to ${n}: ${recent.toFixed(3)}`);
    recent = 0;
  }
}

const average = (await training.read("state.average")) as HostTensor<"float32">;
await training.close();

const output = network(graph.input("x", [COUNT, 1, 1, 1]), graph.input("t", [COUNT]));
const { bytes } = graph.toOnnx({ output }, { bind: bindWeights(network, unpacked(average.data, step.layout)) });
const session = await openSession(bytes, { threads: 1 });
const learned: diffusion.Network = async (x, timestep) => {
  const answer = await session.run({ x, t: float32([COUNT], new Float32Array(COUNT).fill(timestep)) });
  return answer.output as HostTensor<"float32">;
};
console.log("learned, and sampled from:");
await sampled(learned, "ddpm", 250);
await sampled(learned, "dpm++2m", 20);
await session.close();
