"""`inpaint bench serve`: what the service adds around the model, measured from outside."""

import json
import time
from io import BytesIO
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import psutil
import typer
from PIL import Image, ImageDraw

from inpaint.errors import InpaintError

from .temporary import Service, running

MODEL = "telea"  # the fastest: what remains is the service's own time
SIDE = 512  # pixels
WARM_REQUESTS = 3  # not counted
MEGABYTE = 1e6  # bytes


def serve(
    *,
    requests: Annotated[int, typer.Option(min=1, help="How many are counted.")] = 50,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Post a 512 px PNG again and again and print time and memory."""
    with running(MODEL) as service:
        figures = measure(service, requests)
    for name, value in figures.items():
        print(f"{name:24} {value:10.2f}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


def measure(service: Service, requests: int) -> dict[str, float]:
    """Return the figures by name: `_ms` milliseconds, `_mb` megabytes.

    `overhead` is what a client waits beyond the time in the model; `decode`, `queue`, `infer` and
    `encode` are what the answers say of themselves, as a median.
    """
    files = {"image": ("image.png", _photograph()), "mask": ("mask.png", _mask())}
    totals: list[float] = []
    stages: dict[str, list[float]] = {}
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        for number in range(WARM_REQUESTS + requests):
            began = time.perf_counter()
            answer = client.post("/inpaint", files=files, data={"model": MODEL})
            total = 1000 * (time.perf_counter() - began)
            if answer.status_code != httpx.codes.OK:
                raise InpaintError(f"POST /inpaint answered {answer.status_code}: {answer.text}")
            if number < WARM_REQUESTS:
                continue
            totals.append(total)
            for name, milliseconds in _stages(answer.headers["Server-Timing"]).items():
                stages.setdefault(name, []).append(milliseconds)
    overhead = np.subtract(totals, stages["infer"])
    return {
        "requests": requests,
        "overhead_ms_p50": float(np.percentile(overhead, 50)),
        "overhead_ms_p95": float(np.percentile(overhead, 95)),
        "total_ms_p50": float(np.percentile(totals, 50)),
        "total_ms_p95": float(np.percentile(totals, 95)),
        **{f"{name}_ms_p50": float(np.median(values)) for name, values in stages.items()},
        "gateway_mb": _resident(service, "serve"),
        "worker_mb": _resident(service, "worker"),
    }


def _stages(header: str) -> dict[str, float]:
    """Read `Server-Timing`: `decode;dur=3.1, queue;dur=1.2` in milliseconds."""
    pairs = (entry.strip().split(";dur=") for entry in header.split(","))
    return {name: float(milliseconds) for name, milliseconds in pairs}


def _resident(service: Service, command: str) -> float:
    """Return the resident memory of the supervisor's child that runs `inpaint COMMAND`."""
    children = psutil.Process(service.process.pid).children()
    (child,) = (child for child in children if child.cmdline()[-1] == command)
    return float(child.memory_info().rss / MEGABYTE)


def _photograph() -> bytes:
    """Return a PNG that compresses about as badly as a photograph: soft shapes and grain."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    shapes = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = random.normal(0, 4, shapes.shape)
    pixels = np.clip(shapes + grain, 0, 255).astype(np.uint8)
    return _png(Image.fromarray(pixels))


def _mask() -> bytes:
    """Return a PNG with a few strokes, about 3 % of the picture."""
    mask = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(mask)
    for x in (100, 230, 400):
        draw.line((x, 0, SIDE - x, SIDE), fill=255, width=5)
    return _png(mask)


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
