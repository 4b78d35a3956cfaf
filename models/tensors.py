"""Pixels become tensors here, for training and for serving, and nowhere else.

What takes tensors of pixels takes them on any device, and is traced where a network is converted.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_image(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    """Return the image, float (B,3,H,W) in [-1, 1], of pixels uint8 (B,H,W,3)."""
    return _tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_mask(holes: NDArray[np.bool_] | Tensor) -> Tensor:
    """Return the mask, float (B,1,H,W), 1 = hole, of holes bool (B,H,W)."""
    return _tensor(holes)[:, None].float()


def to_levels(image: Tensor) -> Tensor:
    """Return pixels uint8 (B,H,W,3), rounded, of an image (B,3,H,W) in [-1, 1]."""
    levels = ((image.detach().float() + 1) * 127.5).round().clamp(0, 255).byte()
    return levels.permute(0, 2, 3, 1).contiguous()


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Return `to_levels` of an image, as an array."""
    pixels: NDArray[np.uint8] = to_levels(image).cpu().numpy()
    return pixels


def composite(image: Tensor, fill: Tensor, mask: Tensor) -> Tensor:
    """Return (B,3,H,W): the known region from `image`, the hole (mask 1) from `fill`."""
    return image * (1 - mask) + fill * mask


def known_colour(visible: Tensor, mask: Tensor) -> Tensor:
    """Return the mean colour (B,3,1,1) of what is known, in float32; gray (0) where nothing is.

    Args:
        visible: (B,3,H,W) in [-1, 1], blanked to 0 in the hole.
        mask: (B,1,H,W), 1 = hole.
    """
    known = (1 - mask.float()).sum((2, 3), keepdim=True).clamp(min=1)
    return visible.float().sum((2, 3), keepdim=True) / known  # half-precision sums are too coarse


def _tensor(array: NDArray[np.generic] | Tensor) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)
