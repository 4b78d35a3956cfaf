"""Every loss, once, with its equation. Images (B,3,H,W) in [-1, 1]; masks (B,1,H,W), 1 = hole.

AOT-GAN is Zeng et al., arXiv:2104.01431; "released code" is its authors' repository.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MaskMode = Literal["paper", "official"]
TINY = 1e-6  # keeps a division by an empty mask or an all-zero activation finite


def reconstruction(
    fill: Tensor, image: Tensor, mask: Tensor, *, known: float, hole: float
) -> Tensor:
    """L1 of the raw fill: mean(|fill - image| * w), w = `known` outside the hole and `hole` inside.

    With both weights 1 it is AOT-GAN's equation 6: the mean over the whole image.
    """
    weight = known + (hole - known) * mask
    return ((fill - image).abs() * weight).mean()


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


def soft_patch_discriminator(
    real: Tensor, fake: Tensor, mask: Tensor, *, blurred: Tensor, mode: MaskMode
) -> Tensor:
    """SM-PatchGAN, the discriminator's side: squared error of logits resized to the mask's size.

    paper: mean (D(x) - 1)^2 + mean (D(z) - (1 - blur(m)))^2, equation 4 with 1 = real everywhere.
    official: mean D(x)^2 + mean (D(z) - blur(m))^2, as released: 0 = real.

    Args:
        real: logits (B,1,h,w) of the image x.
        fake: logits (B,1,h,w) of the composite z.
        mask: (B,1,H,W).
        blurred: `soft_mask(mask)`.
        mode: which of the two.
    """
    target_real, target_fake = (1.0, 1 - blurred) if mode == "paper" else (0.0, blurred)
    real_error = (_to_mask_size(real, mask) - target_real).square().mean()
    return real_error + (_to_mask_size(fake, mask) - target_fake).square().mean()


def soft_patch_generator(fake: Tensor, mask: Tensor, *, mode: MaskMode) -> Tensor:
    """SM-PatchGAN, the generator's side.

    paper: sum m (D(z) - 1)^2 / sum m, equation 5 as a mean over the hole.
    official: mean (D(z) - 1)^2. In the released code the mask cancels, because the squared error is
    reduced before it is weighted, and 1 is what its discriminator calls fake.
    """
    error = (_to_mask_size(fake, mask) - 1).square()
    if mode == "official":
        return error.mean()
    return (error * mask).sum() / (mask.sum() + TINY)


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean over layers of mean |D_i(fake) - D_i(real)|: arXiv:1711.11585, equation 4."""
    layers = [(f - r.detach()).abs().mean() for f, r in zip(fake, real, strict=True)]
    return torch.stack(layers).sum() / len(layers)
