import {
  add,
  div,
  gradients,
  mean,
  minimum,
  mul,
  neg,
  relu,
  sqrt,
  stopGradient,
  sub,
  sum,
  sumSquares,
  type Tensor,
} from "../graph/index.ts";

/** A network whose pictures are to look real, in the middle of a step. */
export interface Generated {
  /** Real pictures [n, c, h, w], and what became of them. */
  readonly images: Tensor;
  readonly decoded: Tensor;
  /** How unlike they are: the scalar that is also minimized. */
  readonly unlikeness: Tensor;
  /** The weights of the network's last layer. */
  readonly lastLayer: Tensor;
}

export interface AdversarialOptions {
  /** What the discriminator says of pictures, see `patchDiscriminator`. */
  readonly discriminate: (images: Tensor) => Tensor;
  /** A factor on the adaptive weight. */
  readonly weight: number;
  /** A scalar: 0 switches the adversarial part off, for the network and the discriminator alike; 1 switches it on. */
  readonly active: Tensor;
}

/** The adaptive weight's limit, and what keeps its denominator from 0. */
const HEAVIEST = 1e4;
const EPSILON = 1e-4;

/**
 * The adversarial part of a step (Esser et al. 2021, section 3.1). With logits D of patches:
 *
 * - the network minimizes λ·(−mean D(x̂)), where λ = ‖∇ unlikeness‖ / (‖∇ −mean D(x̂)‖ + 1e-4) at the last layer (eq. 7), at
 *   most 10⁴, is taken as a constant;
 * - the discriminator minimizes ½·(mean max(0, 1 − D(x)) + mean max(0, 1 + D(x̂))), the hinge loss (Lim & Ye 2017).
 */
export function adversarialPart(
  { images, decoded, unlikeness, lastLayer }: Generated,
  { discriminate, weight, active }: AdversarialOptions,
) {
  const [real, fake] = [discriminate(images), discriminate(decoded)];
  const adversarial = neg(mean(fake));
  const discriminator = mul(add(mean(relu(sub(1, real))), mean(relu(add(fake, 1)))), 0.5);

  // Both losses depend on the network through its pictures alone. With their gradients there taken as constants, one walk
  // back through the network is enough, and the discriminator is walked through once.
  const [byLikeness] = gradients(unlikeness, [decoded]);
  const [byVerdict] = gradients(adversarial, [decoded]);
  const pulled = (gradient: Tensor) => sum(mul(decoded, stopGradient(gradient)));
  const normAtLast = (gradient: Tensor) => sqrt(sumSquares(gradients(pulled(gradient), [lastLayer])[0]!));
  const adaptive = minimum(div(normAtLast(byLikeness!), add(normAtLast(byVerdict!), EPSILON)), HEAVIEST);
  const adversarialWeight = mul(mul(adaptive, weight), active);

  return {
    /** What the network minimizes, as a number. */
    loss: add(unlikeness, mul(adversarialWeight, adversarial)),
    /** A scalar with the gradient of `loss`, λ constant, for everything that `decoded` depends on. */
    pull: pulled(add(byLikeness!, mul(adversarialWeight, byVerdict!))),
    /** What the discriminator minimizes. */
    discriminator: mul(discriminator, active),
    measures: { adversarial, adversarialWeight, discriminator, real: mean(real), fake: mean(fake) },
  };
}
