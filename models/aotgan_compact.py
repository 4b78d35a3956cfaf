"""Compact AOT-GAN: the AOT block at 1/8 resolution, for CPUs and small budgets.

The block is that of AOT-GAN (Zeng et al., "Aggregated Contextual Transformations for
High-Resolution Image Inpainting", arXiv 2104.01431, section 3.1), made cheap:

* a pixel-unshuffle stem and a pixel-shuffle head: no convolution at full resolution;
* blocks at 1/8 instead of 1/4 of the side: a quarter of the cost, twice the reach of each rate;
* the gate is a 1x1 convolution without the paper's standardisation (unless asked for), so that a
  fill does not depend on the statistics of the whole window;
* skip connections from 1/4 and 1/2, because the known region lends its edges to the fill;
* zero padding instead of reflection;
* optionally, between the blocks, one operation that sees the whole window.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.highres import SizeRule

from .aotgan import standardise
from .generator import Generator

Gate = Literal["plain", "standardised", "none"]

TOKENS = 16  # on a side, of the averaged map that attention looks at
HEADS = 4


class Attention(nn.Module):
    """Adds to each place what it takes from all others: its query against a map of 16x16 averages.

    Scaled dot products, Vaswani et al. 2017, arXiv:1706.03762, section 3.2, without positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (B,C,H,W)."""
        tokens = F.adaptive_avg_pool2d(x, TOKENS)
        heads = [
            layer(seen).flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3)  # (B,heads,N,C/heads)
            for layer, seen in ((self.query, x), (self.key, tokens), (self.value, tokens))
        ]
        found = F.scaled_dot_product_attention(*heads)
        out: Tensor = x + self.out(found.transpose(2, 3).reshape(x.shape))
        return out


class Fourier(nn.Module):
    """Adds what a 1x1 convolution makes of the spectrum, where each value is of the whole map.

    The spectral transform of fast Fourier convolutions (Chi et al. 2020; LaMa, arXiv:2109.07161,
    section 2.1), with the convolution before it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(channels, channels // 2, 1)
        self.spectrum = nn.Conv2d(channels, channels, 1)  # real and imaginary parts
        self.out = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (B,C,H,W)."""
        waves = torch.fft.rfft2(F.relu(self.before(x)).float(), norm="ortho")
        parts = torch.cat([waves.real, waves.imag], dim=1).to(x.dtype)
        real, imaginary = F.relu(self.spectrum(parts)).float().chunk(2, dim=1)
        back = torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[2:], norm="ortho")
        out: Tensor = x + self.out(back.to(x.dtype))
        return out


CONTEXTS: dict[str, type[Attention] | type[Fourier]] = {"attention": Attention, "fourier": Fourier}


class CompactAOTBlock(nn.Module):
    """Dilated branches, fused, and gated against the input: x (1 - g) + fuse(branches) g.

    Without the gate it is a residual block: x + fuse(branches).
    """

    def __init__(self, channels: int, rates: tuple[int, ...], gate: Gate) -> None:
        super().__init__()
        part = channels // len(rates)
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, part, 3, padding=rate, dilation=rate) for rate in rates
        )
        self.fuse = nn.Conv2d(part * len(rates), channels, 3, padding=1)
        self.gate = None if gate == "none" else nn.Conv2d(channels, channels, 1)
        self.standardised = gate == "standardised"

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (B,C,H,W)."""
        parts = torch.cat([branch(x) for branch in self.branches], dim=1)  # (B,C,H,W)
        fused = self.fuse(F.relu(parts))
        if self.gate is None:
            return x + fused
        gate = standardise(self.gate(x)).to(x.dtype) if self.standardised else self.gate(x)
        return torch.lerp(x, fused, torch.sigmoid(gate))


class CompactAOTGAN(Generator):
    """Encoder to 1/8 of the side, AOT blocks, decoder with two skips."""

    @dataclass(frozen=True)
    class Config:
        """The shipped size: 6.3 M parameters."""

        width: int = 48  # channels at 1/2 of the side; twice as many at 1/4
        channels: int = 192  # channels of the blocks
        blocks: int = 8
        rates: tuple[int, ...] = (1, 2, 4, 8)
        context: Literal["none", "attention", "fourier"] = "none"  # in the middle of the blocks
        gate: Gate = "plain"  # of the blocks; standardised: as the paper's
        side: Literal[8, 4] = 8  # the blocks see the image at 1/8 or 1/4 of its side

    rule = SizeRule(multiple=8, minimum=16, trained=256)
    source = "after AOT-GAN, arXiv:2104.01431"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, channels = config.width, config.channels
        self.stem = nn.Conv2d(16, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.down2 = (
            nn.Conv2d(2 * width, channels, 4, stride=2, padding=1)
            if config.side == 8
            else nn.Conv2d(2 * width, channels, 3, padding=1)
        )
        self.middle = nn.Sequential(
            *(CompactAOTBlock(channels, config.rates, config.gate) for _ in range(config.blocks))
        )
        self.context = CONTEXTS[config.context](channels) if config.context in CONTEXTS else None
        self.up1 = nn.Conv2d(channels + 2 * width, 2 * width, 3, padding=1)
        self.up2 = nn.Conv2d(3 * width, width, 3, padding=1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; fresh blocks pass their input, gated ones most of it."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has one
        for block in self.middle:
            assert isinstance(block, CompactAOTBlock)
            if block.gate is None:
                nn.init.zeros_(block.fuse.weight)
            elif not block.standardised:
                nn.init.constant_(block.gate.bias, -1.0)  # type: ignore[arg-type]  # it has one
        nn.init.normal_(self.head.weight, std=0.02)
        if self.context is not None:
            nn.init.zeros_(self.context.out.weight)  # a fresh one passes its input

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill (B,3,H,W); the network sees the hole gray (0)."""
        half = F.pixel_unshuffle(torch.cat([visible, mask], dim=1), 2)  # (B,16,H/2,W/2)
        half = F.relu(self.stem(half))
        quarter = F.relu(self.down1(half))
        deep = F.relu(self.down2(quarter))  # (B,channels,H/8,W/8), or of 1/4
        for number, block in enumerate(self.middle):
            if self.context is not None and number == len(self.middle) // 2:
                deep = self.context(deep)
            deep = block(deep)
        up = F.interpolate(deep, scale_factor=self.config.side // 4, mode="nearest")
        up = F.relu(self.up1(torch.cat([up, quarter], dim=1)))
        up = F.interpolate(up, scale_factor=2, mode="nearest")
        up = F.relu(self.up2(torch.cat([up, half], dim=1)))
        fill = self.head(F.relu(self.refine(up)))  # (B,12,H/2,W/2)
        return torch.tanh(F.pixel_shuffle(fill, 2))
