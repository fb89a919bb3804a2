import {
  add,
  concat,
  maxPool,
  mean,
  mul,
  reciprocal,
  relu,
  sqrt,
  sub,
  sum,
  type Tensor,
  values,
} from "../graph/index.ts";
import { conv2d } from "../nn/layers.ts";
import { group, module, parameter } from "../nn/module.ts";

/** The network that `perceptualDistance` builds. */
export type PerceptualDistance = ReturnType<typeof perceptualDistance>;

/** Convolutions of each stage of VGG16 (Simonyan & Zisserman 2015, table 1, D), and their channels. */
const CONVOLUTIONS = [2, 2, 3, 3, 3];
export const VGG16_WIDTHS: readonly number[] = [64, 128, 256, 512, 512];

/** Mean and deviation of ImageNet's channels, for images in −1 … 1. */
const MEAN = [0.485, 0.456, 0.406].map((value) => 2 * value - 1);
const DEVIATION = [0.229, 0.224, 0.225].map((value) => 2 * value);

/** Keeps the direction of a pixel without any feature defined. */
const EPSILON = 1e-20;

/** The smallest side of images that four poolings leave a pixel of. */
export const SMALLEST_PERCEIVED = 2 ** (CONVOLUTIONS.length - 1);

/** The weight of each channel of stage `i`, by the name that the authors of LPIPS gave it. */
export const linearName = (stage: number) => `lin${stage}.model.1.weight`;

/**
 * The perceptual distance of two pictures (Zhang et al. 2018, eq. 1) in the features of VGG16: the features after the last
 * rectifier of each stage are scaled to length 1 at each pixel, their squared differences weighted by channel, averaged
 * over pixels and added up over the stages. Pictures [n, 1 or 3, h, w] in −1 … 1 → [n].
 *
 * Parameters have torchvision's names, `features.0.weight` and so on, where the number counts convolutions, rectifiers and
 * poolings alike; with `linear` also the channels' learned weights, `lin0.model.1.weight` [1, channels, 1, 1] and so on,
 * in the place of which 1 stands otherwise. torchvision's and timm's classifier may be in the weights too.
 *
 * @param widths channels of the five stages
 */
export function perceptualDistance({
  widths = VGG16_WIDTHS,
  linear = false,
}: {
  readonly widths?: readonly number[];
  readonly linear?: boolean;
} = {}) {
  let index = 0;
  let channels = 3;
  const stages = CONVOLUTIONS.map((count, stage) =>
    Array.from({ length: count }, (_, i) => {
      // Behind each convolution its rectifier counts; before each stage but the first the pooling.
      if (stage > 0 && i === 0) index++;
      const named = [String(index), conv2d(channels, widths[stage]!, { padding: 1 })] as const;
      index += 2;
      channels = widths[stage]!;
      return named;
    }),
  );
  const weights = widths.map((width) => parameter([1, width, 1, 1], { kind: "constant", value: 1 }));
  const parts = {
    features: group(Object.fromEntries(stages.flat())),
    ...(linear
      ? Object.fromEntries(weights.map((weight, i) => [`lin${i}`, group({ model: group({ 1: group({ weight }) }) })]))
      : {}),
  };
  const featuresOf = (images: Tensor): Tensor[] => {
    let x = images.shape[1] === 1 ? concat([images, images, images], 1) : images;
    x = mul(
      sub(x, values([3, 1, 1], MEAN)),
      values(
        [3, 1, 1],
        DEVIATION.map((value) => 1 / value),
      ),
    );
    return stages.map((convolutions, stage) => {
      if (stage > 0) x = maxPool(x, 2);
      for (const [, convolution] of convolutions) x = relu(convolution(x));
      return x;
    });
  };
  const network = module(parts, (images: Tensor, originals: Tensor) => {
    const [ours, theirs] = [featuresOf(images), featuresOf(originals)];
    return ours
      .map((features, stage) => {
        const difference = sub(directions(features), directions(theirs[stage]!));
        const squares = mul(difference, difference);
        const byChannel = linear ? mul(squares, weights[stage]!.tensor) : squares;
        return mean(sum(byChannel, 1), [1, 2]);
      })
      .reduce(add);
  });
  return Object.assign(network, {
    storedName: (name: string) => (/^(classifier|pre_logits|head)\./.test(name) ? null : undefined),
  });
}

/** Features [n, c, h, w] scaled to length 1 at each pixel. */
function directions(features: Tensor): Tensor {
  const squares = sum(mul(features, features), 1, { keepDims: true });
  return mul(features, reciprocal(sqrt(add(squares, EPSILON))));
}
