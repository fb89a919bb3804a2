import type { HostTensor } from "../src/core/host-tensor.ts";
import { seeded } from "../src/core/random.ts";
import { writeModelFolder } from "../src/io/index.ts";
import { autoencoderKL, type Config, initialize } from "../src/models/index.ts";

/**
 * Writes the folder of a tiny autoencoder with random weights, always the same but for what `change` makes of them: 2
 * pixels of a side become one, in 2 channels.
 */
export async function smallAutoencoderFolder(
  folder: string,
  {
    change = () => {},
    config = {},
  }: { readonly change?: (name: string, values: Float32Array) => void; readonly config?: Config } = {},
): Promise<string> {
  const network = autoencoderKL({
    ...{ block_out_channels: [8, 12], down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D"] },
    ...{ up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D"], norm_num_groups: 4, layers_per_block: 1 },
    ...{ latent_channels: 2, scaling_factor: 1, sample_size: 8, ...config },
  });
  const tensors = new Map<string, HostTensor>(initialize(network, seeded(4)));
  for (const [name, { data }] of tensors) change(name, data as Float32Array);
  await writeModelFolder(folder, { className: "AutoencoderKL", config: network.config, tensors });
  return folder;
}
