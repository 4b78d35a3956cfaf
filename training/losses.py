"""Every loss, once, with its equation. Images (B,3,H,W) in [-1, 1]; masks (B,1,H,W), 1 = hole.

AOT-GAN is Zeng et al., arXiv:2104.01431; "released code" is its authors' repository. Context
Encoder is Pathak et al., arXiv:1604.07379; CC-GAN is Denton et al., arXiv:1611.06430.

Ranks differ in how much of their part of a batch is hole, and in how many samples have labels.
Losses that divide by such an amount take its mean over the ranks as `area` or `count`; the mean of
the ranks' gradients is then that of the joined batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MaskMode = Literal["paper", "official"]
Objective = Literal["soft-mask", "hard-mask", "least-squares", "cross-entropy"]
TINY = 1e-6  # keeps a division by an empty mask or an all-zero activation finite


def reconstruction(
    fill: Tensor, image: Tensor, mask: Tensor, *, known: float, hole: float
) -> Tensor:
    """L1 of the raw fill: mean(|fill - image| * w), w = `known` outside the hole and `hole` inside.

    With both weights 1 it is AOT-GAN's equation 6: the mean over the whole image.
    """
    weight = known + (hole - known) * mask
    return ((fill - image).abs() * weight).mean()


def hole_squared(
    fill: Tensor, image: Tensor, mask: Tensor, *, area: Tensor | None = None
) -> Tensor:
    """L2 over the hole: sum m (fill - image)^2 / (3 sum m). Context Encoder, equation 1, as a mean.

    Args:
        fill: (B,3,H,W).
        image: (B,3,H,W).
        mask: (B,1,H,W).
        area: what stands for sum m, the number of hole pixels.
    """
    area = mask.sum() if area is None else area
    return ((fill - image).square() * mask).sum() / (fill.shape[1] * area + TINY)


def overlap_squared(part: Tensor, target: Tensor, *, band: int = 4, factor: float = 10.0) -> Tensor:
    """L2 with a heavy border: mean W (part - target)^2. Context Encoder, section 3.2 and train.lua.

    There the prediction overlaps what is known: W = `factor` within `band` pixels of the border of
    the part (B,3,h,w), 1 inside.
    """
    weight = torch.full_like(part[:1, :1], factor)
    height, width = part.shape[2:]
    weight[..., band : height - band, band : width - band] = 1
    return ((part - target).square() * weight).mean()


def classification(logits: Tensor, labels: Tensor, *, count: Tensor | None = None) -> Tensor:
    """Cross-entropy, mean over labelled samples of -log softmax(logits)[label]; 0 without any.

    CC-GAN, section 3: unlabelled images train the same network through the adversarial loss alone.

    Args:
        logits: (B,K).
        labels: (B,) int64 in [0, K); -1 where there is none.
        count: what stands for the number of labelled samples.
    """
    count = (labels >= 0).sum() if count is None else count
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / count.clamp(min=TINY)


def gram(features: Tensor) -> Tensor:
    """Return F F^T / (H W C), (B,C,C), of features (B,C,H,W): AOT-GAN, equation 8."""
    flat = features.flatten(2)  # (B,C,HW)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def scale_by_target(fill: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Divide both by the root mean square of each sample's target activations (B,C,H,W).

    Activations of SqueezeNet differ by orders of magnitude between taps; so each counts alike.
    """
    scale = target.square().mean((1, 2, 3), keepdim=True).sqrt() + TINY
    return fill / scale, target / scale


def perceptual(
    fill: Mapping[str, Tensor], target: Mapping[str, Tensor], taps: Sequence[str]
) -> Tensor:
    """Sum over taps of mean |F(fill) - F(image)|: AOT-GAN, equation 7."""
    return torch.stack([(fill[tap] - target[tap]).abs().mean() for tap in taps]).sum()


def style(fill: Mapping[str, Tensor], target: Mapping[str, Tensor], taps: Sequence[str]) -> Tensor:
    """Sum over taps of mean |Gram(F(fill)) - Gram(F(image))|: AOT-GAN, equation 8."""
    return torch.stack([(gram(fill[tap]) - gram(target[tap])).abs().mean() for tap in taps]).sum()


def soft_mask(mask: Tensor, *, kernel: int = 71, sigma: float = 10.0) -> Tensor:
    """Blur the mask with a Gaussian, zero padded; kernel and sigma in pixels.

    The paper says 70x70, which has no centre; the released code uses 71 with sigma 10. The kernel
    is an outer product, so rows and columns are blurred one after the other.
    """
    offsets = torch.arange(kernel, device=mask.device, dtype=mask.dtype) - kernel // 2
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    weights = weights / weights.sum()
    blurred = F.conv2d(mask, weights.view(1, 1, -1, 1), padding=(kernel // 2, 0))
    return F.conv2d(blurred, weights.view(1, 1, 1, -1), padding=(0, kernel // 2))


def _to_mask_size(logits: Tensor, mask: Tensor) -> Tensor:
    return F.interpolate(logits, size=mask.shape[2:], mode="bilinear", align_corners=True)


def adversarial_discriminator(
    objective: Objective,
    real: Tensor,
    fake: Tensor,
    mask: Tensor,
    *,
    mode: MaskMode = "paper",
    kernel: int = 71,
    sigma: float = 10.0,
) -> Tensor:
    """Return the discriminator's loss for an image x and its filled version z, 1 = real.

    cross-entropy: mean -log s(D(x)) + mean -log(1 - s(D(z))), s the logistic function.
    least-squares: mean (D(x) - 1)^2 + mean D(z)^2; PyTorch-GAN takes half of it.
    hard-mask: mean (D(x) - 1)^2 + mean (D(z) - (1 - m))^2, AOT-GAN's HM-PatchGAN.
    soft-mask: the same with 1 - blur(m), AOT-GAN's equation 4. In the mode "official" it is
    mean D(x)^2 + mean (D(z) - blur(m))^2, as released: 0 = real.

    Args:
        objective: which of them; those with a mask resize the logits to its size.
        real: logits (B,1,h,w) of x.
        fake: logits (B,1,h,w) of z.
        mask: (B,1,H,W).
        mode: of "soft-mask".
        kernel: of the blur, pixels.
        sigma: of the blur, pixels.
    """
    if objective == "cross-entropy":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if objective == "least-squares":
        return (real - 1).square().mean() + fake.square().mean()
    filled = soft_mask(mask, kernel=kernel, sigma=sigma) if objective == "soft-mask" else mask
    released = objective == "soft-mask" and mode == "official"
    target_real, target_fake = (0.0, filled) if released else (1.0, 1 - filled)
    real_error = (_to_mask_size(real, mask) - target_real).square().mean()
    return real_error + (_to_mask_size(fake, mask) - target_fake).square().mean()


def adversarial_generator(
    objective: Objective,
    fake: Tensor,
    mask: Tensor,
    *,
    mode: MaskMode = "paper",
    area: Tensor | None = None,
) -> Tensor:
    """Return the generator's loss for a filled image z: it wants to be called real.

    cross-entropy: mean -log s(D(z)), s the logistic function.
    least-squares: mean (D(z) - 1)^2.
    hard-mask, soft-mask: sum m (D(z) - 1)^2 / sum m, AOT-GAN's equation 5 as a mean over the hole.
    In the mode "official" of soft-mask it is mean (D(z) - 1)^2: in the released code the mask
    cancels, because the squared error is reduced before it is weighted, and 1 is what its
    discriminator calls fake.

    Args:
        objective: which of them; those with a mask resize the logits to its size.
        fake: logits (B,1,h,w) of z.
        mask: (B,1,H,W).
        mode: of "soft-mask".
        area: what stands for sum m, the number of hole pixels.
    """
    if objective == "cross-entropy":
        return F.softplus(-fake).mean()
    if objective == "least-squares":
        return (fake - 1).square().mean()
    error = (_to_mask_size(fake, mask) - 1).square()
    if objective == "soft-mask" and mode == "official":
        return error.mean()
    area = mask.sum() if area is None else area
    return (error * mask).sum() / (area + TINY)


def r1(logits_of: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Return mean over samples of |d sum D(x) / d x|^2 at real images: Mescheder et al. 2018.

    arXiv:1801.04406, equation 9, without gamma / 2; logits of patches are summed, as in LaMa's
    released code. Its own gradient reaches the discriminator's weights.

    Args:
        logits_of: the discriminator; in float32, for squares of small gradients are smaller still.
        real: (B,3,H,W).
    """
    image = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(logits_of(image).sum(), image, create_graph=True)
    return slope.square().sum((1, 2, 3)).mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean over layers of mean |D_i(fake) - D_i(real)|: arXiv:1711.11585, equation 4."""
    layers = [(f - r.detach()).abs().mean() for f, r in zip(fake, real, strict=True)]
    return torch.stack(layers).sum() / len(layers)
