"""AOT-GAN: dilated convolutions of several rates, aggregated, and gated against their input.

Zeng, Fu, Chao, Guo, "Aggregated Contextual Transformations for High-Resolution Image Inpainting",
IEEE TVCG 2022, arXiv 2104.01431: generator in section 3, block in section 3.1.

Names of parameters, padding, the standardisation of the gate and the hole's value follow the
published code (github.com/researchmm/AOT-GAN-for-Inpainting, Apache-2.0), so that its state dicts
load as they are: `AOTGAN(AOTGAN.Config()).load_state_dict(published)`. The paper's size has
15,200,835 parameters; channels, blocks and rates may be others here.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inpaint.highres import SizeRule

from .generator import Generator

SCALE = 4  # the blocks see the image at a quarter of its side


class AOTBlock(nn.Module):
    """Dilated branches, fused, and gated against the input: x (1 - g) + fuse(branches) g.

    Without the gate, as in the paper's ablation, it is a residual block: x + fuse(branches).
    """

    def __init__(self, channels: int, rates: tuple[int, ...], *, gate: bool) -> None:
        super().__init__()
        self.rates = rates
        part = channels // len(rates)
        for number, rate in enumerate(rates):
            branch = nn.Sequential(
                nn.ReflectionPad2d(rate), nn.Conv2d(channels, part, 3, dilation=rate), nn.ReLU()
            )
            self.add_module(f"block{number:02d}", branch)
        self.fuse = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3))
        self.gate = (
            nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3)) if gate else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape (B,C,H,W)."""
        branches = [self.get_submodule(f"block{i:02d}")(x) for i in range(len(self.rates))]
        fused = self.fuse(torch.cat(branches, dim=1))  # (B,C,H,W)
        if self.gate is None:
            return x + fused
        gate = torch.sigmoid(standardise(self.gate(x))).to(x.dtype)
        return torch.lerp(x, fused, gate)


def standardise(features: Tensor) -> Tensor:
    """Return 10 z - 5, z being features (B,C,H,W) of mean 0 and deviation 1 per sample and channel.

    In float32 at least: half-precision statistics of a whole window are off by more than the gate
    bears.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    centred = features - features.mean((2, 3), keepdim=True)
    # In two plain passes: torch.std_mean takes four times as long on a CPU.
    pixels = features.shape[2] * features.shape[3]
    deviation = (centred.square().sum((2, 3), keepdim=True) / (pixels - 1)).sqrt()
    # unbiased deviation, epsilon outside the root: as published
    return torch.addcmul(features.new_tensor(-5.0), centred, 10 / (deviation + 1e-9))


class Up(nn.Module):
    """Twice the side by bilinear interpolation, then a convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B,outputs,2H,2W) of features (B,inputs,H,W)."""
        # corners aligned: as published
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class AOTGAN(Generator):
    """Encoder to a quarter of the side, AOT blocks, decoder."""

    @dataclass(frozen=True)
    class Config:
        """The paper's size: 15.2 M parameters."""

        channels: int = 64  # at full resolution; twice and four times as many at 1/2 and 1/4
        blocks: int = 8
        rates: tuple[int, ...] = (1, 2, 4, 8)  # one alone is the ablation of the many
        gate: bool = True

    rule = SizeRule(multiple=SCALE, minimum=36, trained=512)
    source = "arXiv:2104.01431"

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels, rates = config.channels, config.rates
        if channels < 1 or config.blocks < 1 or not rates or min(rates) < 1:
            raise ValueError(f"{config}: channels, blocks and each rate are at least 1")
        if 4 * channels % len(rates):
            raise ValueError(
                f"{config}: {4 * channels} channels cannot be shared by {len(rates)} rates"
            )
        self.config = config
        # reflection needs a side longer than the widest padding, at a quarter of the image's
        self.rule = SizeRule(multiple=SCALE, minimum=SCALE * (max(rates) + 1), trained=512)
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(4, channels, 7),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.middle = nn.Sequential(
            *(AOTBlock(4 * channels, rates, gate=config.gate) for _ in range(config.blocks))
        )
        self.decoder = nn.Sequential(
            Up(4 * channels, 2 * channels),
            nn.ReLU(),
            Up(2 * channels, channels),
            nn.ReLU(),
            nn.Conv2d(channels, 3, 3, padding=1),
        )
        self._initialise()

    def _initialise(self) -> None:
        """Weights N(0, 0.02), biases 0, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution here has one

    def generate(self, visible: Tensor, mask: Tensor) -> Tensor:
        """Return the fill (B,3,H,W); the network sees the hole white (+1), as published."""
        x = self.encoder(torch.cat([visible + mask, mask], dim=1))  # (B,4C,H/4,W/4)
        return torch.tanh(self.decoder(self.middle(x)))
