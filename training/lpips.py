"""LPIPS, the learned perceptual distance of Zhang et al., arXiv:1801.03924, version 0.1.

In: images (B,3,H,W) in [-1, 1]. Out: one distance per image, 0 = looks the same. The trunk's
weights and the linear heads are given as safetensors files; nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from inpaint.errors import BadData

from .features import TAPS, FeatureNetwork, load_features, normalise, read_weights

Trunk = Literal["squeeze", "alex"]
TINY = 1e-10  # the published code's, for places where no channel answers

# File names of the trunk and of the heads in a features folder.
FILES: dict[Trunk, tuple[str, str]] = {
    "squeeze": (
        "squeezenet1_1_torchvision_features.safetensors",
        "lpips_squeeze_lin_v0.1.safetensors",
    ),
    "alex": ("alexnet_torchvision_features.safetensors", "lpips_alex_lin_v0.1.safetensors"),
}


class LPIPS(nn.Module):
    """Distances between activations of unit length, weighted by channel, averaged over places.

    Args:
        trunk: returns the activations of all its taps.
        heads: one vector (C,) of channel weights per tap, in the order of the taps.
    """

    def __init__(self, trunk: FeatureNetwork, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ParameterList(heads).requires_grad_(False)

    def directions(self, image: Tensor) -> list[Tensor]:
        """Return the activations at each tap, of unit length over the channels, (B,C,h,w)."""
        found = self.trunk(normalise(image)).values()
        return [x / (x.square().sum(1, keepdim=True).sqrt() + TINY) for x in found]

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the distance (B,) between `directions`; a batch of 1 stands for every one."""
        parts = [
            torch.einsum("bchw,c->bhw", (x - y).square(), head).mean((1, 2))
            for x, y, head in zip(a, b, self.heads, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance (B,) between two batches of images."""
        return self.distance(self.directions(a), self.directions(b))


def load(network: Trunk, folder: Path) -> LPIPS:
    """Return LPIPS over `network`, with weights from the two files of that name in `folder`.

    Raises:
        BadData: if a file is missing or holds something else.
    """
    trunk_file, heads_file = (folder / name for name in FILES[network])
    trunk = load_features(network, trunk_file, list(TAPS[network]))
    weights = read_weights(heads_file)
    keys = [f"lin{number}.model.1.weight" for number in range(len(TAPS[network]))]
    if missing := [key for key in keys if key not in weights]:
        raise BadData(f"{heads_file} does not hold LPIPS heads: {', '.join(missing)} missing")
    heads = [weights[key].float().flatten() for key in keys]
    with torch.no_grad():
        widths = [x.shape[1] for x in trunk(torch.zeros(1, 3, 64, 64)).values()]
    if (found := [len(head) for head in heads]) != widths:
        raise BadData(f"{heads_file} has heads of {found} channels; {network} needs {widths}")
    return LPIPS(trunk, heads)
