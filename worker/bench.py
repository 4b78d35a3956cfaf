"""`inpaint bench fill`: how fast generators are as served, and how near to the machine's ceiling.

Weights are fresh: speed does not depend on them, and no checkpoint is needed.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

from models.filler import TorchFiller, best_precision, fastest_filler
from models.generator import Generator
from models.registry import GENERATORS, create
from models.tensors import to_image, to_mask
from models.timing import fastest_in_turn, machine
from models.timing import seconds as timed

MODELS = ("aotgan-compact", "aotgan")
MATRIX_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}


@dataclass(frozen=True)
class Row:
    """One model at one size, batch 1."""

    model: str
    size: int  # side of the square window, pixels
    device: str
    engine: str  # that serves it on this machine
    precision: str  # in which it is served
    seconds_served: float  # pixels in, pixels out, through the filler that serves
    seconds_eager: float  # likewise in PyTorch eager, in the same precision
    seconds_eager_fp32: float  # the network alone in PyTorch eager, float32, channels first
    speedup: float  # as served, over float32
    speedup_eager: float  # in PyTorch eager, over float32
    share_of_ceiling: float  # multiplications per second as served / those of a matrix product


def fill(
    *,
    sizes: Annotated[str, typer.Option(help="Sides of windows in pixels, by commas.")] = "256,512",
    seconds: Annotated[float, typer.Option(min=0, help="Time for each row, at least.")] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Time generators as served, in PyTorch eager, and in plain float32; and a matrix product."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sides = _sides(sizes)
    precision = best_precision(device)
    rates = {name: matrix_rate(getattr(torch, name), device) for name in ("float32", precision)}
    print(machine(device))
    for name, rate in rates.items():
        print(f"matrix product in {name}: {rate / 1e9:.0f} GMAC/s")
    print(
        f"{'model':16}{'px':>6}{'engine':>13}{'served s':>10}{'eager s':>10}{'fp32 s':>10}"
        f"{'speedup':>9}{'eager':>7}{'of ceiling':>12}"
    )
    rows = []
    for model in MODELS:
        for side in sides:
            row = measure(model, side, device, seconds=seconds, ceiling=rates[precision])
            print(
                f"{row.model:16}{row.size:6}{row.engine:>13}{row.seconds_served:10.3f}"
                f"{row.seconds_eager:10.3f}{row.seconds_eager_fp32:10.3f}"
                f"{row.speedup:9.2f}{row.speedup_eager:7.2f}{row.share_of_ceiling:12.0%}",
                flush=True,
            )
            rows.append(asdict(row))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n")


def measure(model: str, side: int, device: str, *, seconds: float, ceiling: float) -> Row:
    """Time a fresh generator, as served and otherwise in turn, and keep the fastest run of each.

    Args:
        model: an architecture, in its default size.
        side: of the window, pixels.
        device: "cpu" or "cuda".
        seconds: go on for this long at least.
        ceiling: multiply-adds per second that the machine can do.
    """
    generator = create(model, {}).eval()
    filler = fastest_filler(generator, device)
    eager = TorchFiller(generator, device, filler.precision)
    generator = generator.to(device)
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    holes = np.zeros((1, side, side), bool)
    holes[:, side // 4 : side // 2, side // 4 : side // 2] = True
    image = to_image(pixels).contiguous().to(device)
    mask = to_mask(holes).to(device)

    @torch.no_grad()
    def plain() -> None:
        generator(image, mask).cpu()  # waits for the device

    fast, usual, slow = fastest_in_turn(
        lambda: filler(pixels, holes), lambda: eager(pixels, holes), plain, at_least=seconds
    )
    return Row(
        model=model,
        size=side,
        device=device,
        engine=filler.engine,
        precision=filler.precision,
        seconds_served=fast,
        seconds_eager=usual,
        seconds_eager_fp32=slow,
        speedup=slow / fast,
        speedup_eager=slow / usual,
        share_of_ceiling=multiplications(model, side) / fast / ceiling,
    )


def multiplications(model: str, side: int) -> int:
    """Return the multiply-adds of a generator's convolutions for one window."""
    count = 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal count
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        count += output.numel() * weight[0].numel()

    with torch.device("meta"):  # shapes alone
        generator: Generator = create(model, {})
        for layer in generator.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(add)
        generator(torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side))
    return count


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Return multiply-adds per second of the best of a few square matrix products."""
    best = 0.0
    for side in MATRIX_SIDES[device]:
        matrix = torch.randn(side, side).to(device, dtype)

        def product(matrix: torch.Tensor = matrix) -> None:
            (matrix @ matrix)[0, 0].item()  # waits for the device

        fastest = min(timed(product) for _ in range(8))
        best = max(best, side**3 / fastest)
    return best


def _sides(sizes: str) -> list[int]:
    """Return the sides, or refuse those that no padding-free window of both networks can have."""
    accepted = "accepted are multiples of 8 from 40 on, by commas"
    try:
        sides = [int(size) for size in sizes.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{sizes!r} are no sizes; {accepted}") from error
    for side in sides:
        if not all(GENERATORS[model].rule.accepts(side, side) for model in MODELS):
            raise typer.BadParameter(f"{side} is no size for all networks; {accepted}")
    return sides
