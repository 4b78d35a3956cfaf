"""CCGAN: a U-Net that fills a hole, in the context-conditional training of a classifier.

Denton, Gross, Fergus, "Semi-Supervised Learning with Context-Conditional Generative Adversarial
Networks", 2016, arXiv 1611.06430. Layers, their keys, the hole's value and the interpolation
follow github.com/eriklindernoren/PyTorch-GAN (MIT), so that its state dicts load as they are.

There and in the paper the low-resolution image that the generator also sees is the whole one, hole
included. Nobody who fills a hole has that: here it is made of what is visible.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.highres import SizeRule

from .context_encoder import PUBLISHED_EPSILON
from .generator import Generator
from .tensors import known_colour

DROPOUT = 0.5
QUARTER = 0.25  # of the side: the low resolution


class Down(nn.Module):
    """Half the side."""

    def __init__(
        self, inputs: int, outputs: int, *, norm: bool = True, dropout: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
        if norm:
            layers.append(nn.BatchNorm2d(outputs, eps=PUBLISHED_EPSILON))
        layers.append(nn.LeakyReLU(0.2))
        if dropout:
            layers.append(nn.Dropout(DROPOUT))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,outputs,H/2,W/2) of features (B,inputs,H,W)."""
        return self.model(x)


class Up(nn.Module):
    """Twice the side, beside the features that were this large on the way down."""

    def __init__(self, inputs: int, outputs: int, *, dropout: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs, eps=PUBLISHED_EPSILON),
            nn.ReLU(),
        ]
        if dropout:
            layers.append(nn.Dropout(DROPOUT))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (B,outputs+C,2H,2W) of features (B,inputs,H,W) and a skip (B,C,2H,2W)."""
        return torch.cat([self.model(x), skip], dim=1)


class CCGAN(Generator):
    """U-Net of six levels; the low-resolution image joins at 1/4 of the side."""

    @dataclass(frozen=True)
    class Config:
        """The published size: 29.3 M parameters."""

        width: int = 64  # channels at 1/2 of the side; up to eight times as many below

    rule = SizeRule(multiple=64, minimum=64, trained=128)
    source = "arXiv:1611.06430"

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        if width < 1:
            raise ValueError(f"{config}: width is at least 1")
        self.config = config
        joined = 2 * width + 3  # with the low-resolution image
        self.down1 = Down(3, width, norm=False, dropout=False)
        self.down2 = Down(width, 2 * width, dropout=False)
        self.down3 = Down(joined, 4 * width)
        self.down4 = Down(4 * width, 8 * width)
        self.down5 = Down(8 * width, 8 * width)
        self.down6 = Down(8 * width, 8 * width)
        self.up1 = Up(8 * width, 8 * width)
        self.up2 = Up(16 * width, 8 * width)
        self.up3 = Up(16 * width, 4 * width)
        self.up4 = Up(8 * width, 2 * width, dropout=False)
        self.up5 = Up(2 * width + joined, width, dropout=False)
        self.final = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, 3, 3, padding=1), nn.Tanh()
        )
        self._initialise()

    def _initialise(self) -> None:
        """Weights N(0, 0.02), those of norms N(1, 0.02): meant, but not called, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill (B,3,H,W); the network sees the hole black (-1), as published."""
        return self.unet(visible - mask, low_resolution(visible, mask))

    def unet(self, shown: Tensor, low: Tensor) -> Tensor:
        """Return the fill (B,3,H,W), as the published generator does.

        Args:
            shown: (B,3,H,W) in [-1, 1], with the hole at -1.
            low: (B,3,H/4,W/4) in [-1, 1].
        """
        down1 = self.down1(shown)
        down2 = torch.cat([self.down2(down1), low], dim=1)
        down3 = self.down3(down2)
        down4 = self.down4(down3)
        down5 = self.down5(down4)
        up = self.up1(self.down6(down5), down5)
        up = self.up2(up, down4)
        up = self.up3(up, down3)
        up = self.up4(up, down2)
        up = self.up5(up, down1)
        return self.final(up)


def low_resolution(visible: Tensor, mask: Tensor) -> Tensor:
    """Return the image at a quarter of its side, its hole in the mean colour of what is known.

    Args:
        visible: (B,3,H,W) in [-1, 1], blanked to 0 in the hole.
        mask: (B,1,H,W), 1 = hole; where it is full, the colour is gray (0).

    Returns:
        (B,3,H/4,W/4) in [-1, 1], by the antialiased bicubic interpolation of the published code.
    """
    image = visible.float() + known_colour(visible, mask) * mask.float()
    small = F.interpolate(image, scale_factor=QUARTER, mode="bicubic", antialias=True)
    return small.clamp(-1, 1).to(visible.dtype)
