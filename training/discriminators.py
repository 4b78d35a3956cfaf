"""Discriminators: networks that tell, patch by patch, the real from the filled.

SM-PatchGAN: Zeng et al., arXiv:2104.01431, section 3.2; layers as in the released code.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Four spectrally normalised 4x4 convolutions and a 1-channel map of logits.

    With 64 channels this is the discriminator of AOT-GAN: 2,763,777 parameters, 62x62 logits for a
    512 px image.

    Args:
        channels: width of the first layer; doubled by each of the next three.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for depth in range(4):
            after = channels << depth
            stride = 2 if depth < 3 else 1
            convolution = nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False)
            nn.init.normal_(convolution.weight, std=0.02)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.2)]
            before = after
        last = nn.Conv2d(before, 1, 4, padding=1)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # it has one
        self.conv = nn.Sequential(*layers, last)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B,1,h,w) and the four activations before; `image` (B,3,H,W) in [-1, 1]."""
        activations = []
        x = image
        for depth in range(4):
            x = F.leaky_relu(self.conv[2 * depth](x), 0.2)
            activations.append(x)
        return self.conv[8](x), activations


def from_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of `PatchDiscriminator` from one in the released code's key layout.

    That layout keeps spectral normalisation as `weight_orig`, `weight_u`, `weight_v`.
    """
    names = {
        "weight_orig": "parametrizations.weight.original",
        "weight_u": "parametrizations.weight.0._u",
        "weight_v": "parametrizations.weight.0._v",
    }
    renamed = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        renamed[f"{stem}.{names.get(leaf, leaf)}"] = value
    return renamed
