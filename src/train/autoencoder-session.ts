import { UserError } from "../core/errors.ts";
import type { HostTensor } from "../core/host-tensor.ts";
import { add, input, mul, type Tensor, toOnnx } from "../graph/index.ts";
import { readModelFolder } from "../io/index.ts";
import { type AutoencoderKLConfig, autoencoderKL, bindWeights, type Config } from "../models/index.ts";
import { type DeviceName, inferenceTarget, openSession, type Session } from "../runtime/index.ts";
import { normalizedPixels } from "./objective.ts";

/** A trained autoencoder that training encodes with and looks through. */
export interface AutoencoderSession {
  readonly config: Config & AutoencoderKLConfig;
  /** How many pixels of a side become one of the latent's. */
  readonly factor: number;
  /** Bytes [n, c, h, w] → moments [n, 2·latent channels, h/factor, w/factor]. */
  encode(images: HostTensor<"uint8">): Promise<HostTensor<"float32">>;
  /** Latents as the denoiser sees them [n, c, h, w] → pictures [n, 3, H, W] in −1 … 1 and a little beyond. */
  decode(latents: HostTensor<"float32">): Promise<HostTensor<"float32">>;
  close(): Promise<void>;
}

export interface AutoencoderSessionOptions {
  readonly device?: DeviceName | "auto";
  readonly threads?: number;
  /** Of the weights, such as `fp16`. */
  readonly variant?: string;
}

/**
 * Opens the folder of an `AutoencoderKL`. A session is opened for each shape when it is first needed, and kept.
 * @throws UserError for a folder of another model
 */
export async function openAutoencoder(
  folder: string,
  { device, threads, variant }: AutoencoderSessionOptions = {},
): Promise<AutoencoderSession> {
  const { className, config: given, weights } = await readModelFolder(folder, { variant });
  if (className !== "AutoencoderKL") {
    throw new UserError(`${folder} is a model of class ${className ?? "unknown"}; AutoencoderKL is needed.`, {
      field: "autoencoder",
    });
  }
  const network = autoencoderKL(given);
  const names = [...weights.tensors.keys()];
  const stored = new Map(await Promise.all(names.map(async (name) => [name, await weights.read(name)] as const)));
  const bind = bindWeights(network, stored, { what: folder });
  const { scaling_factor: scaling, shift_factor: shift, block_out_channels: levels } = network.config;
  const sessions = new Map<string, Promise<Session>>();
  const run = async (name: string, tensor: HostTensor, graph: (x: Tensor) => Tensor) => {
    const key = `${name} ${tensor.shape}`;
    const open = () => {
      const output = graph(input("x", tensor.shape, tensor.dtype));
      const target = inferenceTarget(device === "auto" ? undefined : device);
      return openSession(toOnnx({ output }, { bind, target }).bytes, { name, device, threads });
    };
    const session = sessions.get(key) ?? open();
    sessions.set(key, session);
    const { output } = await (await session).run({ x: tensor });
    return output as HostTensor<"float32">;
  };
  return {
    config: network.config,
    factor: 2 ** (levels.length - 1),
    encode: (images) => run("encoder", images, (x) => network.encode(normalizedPixels(x))),
    decode: (latents) => run("decoder", latents, (z) => network.decode(add(mul(z, 1 / scaling), shift ?? 0))),
    async close() {
      await Promise.all([...sessions.values()].map(async (session) => (await session).close()));
    },
  };
}
