"""`inpaint bench serve`: what the service can do, measured from outside, by real processes.

In: which parts. Out: a line of progress for each run, a table at the end, the same as JSON. What
each figure means stands in docs/benchmarks.md.
"""

import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import psutil
import typer

from . import bench_lanes, bench_rates, bench_shapes
from .bench_effort import FULL, QUICK, Effort, Figures, Say

PARTS: dict[str, Callable[[Effort, Say], Figures]] = {
    "bare": bench_rates.against_bare,
    "compact": bench_rates.against_bare_compact,
    "peer": bench_rates.against_peer,
    "peer-cpu": bench_rates.against_peer_cpu,
    "noop": bench_lanes.queue_alone,
    "specks": bench_shapes.many_specks,
    "curves": bench_shapes.curves,
    "album": bench_lanes.beside_album,
    "memory": bench_lanes.memory,
    "overhead": bench_lanes.overhead,
}
PACKAGES = ("openvino", "torch", "litserve", "fastapi", "uvicorn", "redis", "rq", "pillow")


def _chosen(only: str | None) -> list[str]:
    """Return the parts, in the order in which they run."""
    if only is None:
        return list(PARTS)
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in PARTS:
            raise typer.BadParameter(f"{name!r} is none of the parts: {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def serve(
    *,
    only: Annotated[
        str | None, typer.Option(help=f"Parts, by commas; by default all: {', '.join(PARTS)}.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="See that everything runs; the figures mean little.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Measure the whole service over HTTP, against the bare network and against LitServe."""
    names = _chosen(only)

    def run(say: Say) -> Figures:
        figures: Figures = {}
        for name in names:
            say(f"{name}: {PARTS[name].__doc__}")
            figures |= PARTS[name](QUICK if quick else FULL, say)
        return figures

    show(run, json_file)


def show(run: Callable[[Say], Figures], json_file: Path | None) -> None:
    """Measure, with a line for each step; print a table, and write it as JSON too if asked."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    figures: Figures = {"machine": machine(), "versions": versions()}
    print(figures["machine"], figures["versions"], sep="\n")
    figures |= run(say)
    figures["seconds"] = time.monotonic() - began
    for name, value in figures.items():
        print(_row(name, value))
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


def machine() -> str:
    """Say what computes: the processor, its cores, the memory."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"


def versions() -> str:
    """Say which packages matter here, as installed."""
    words = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            words.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(words)


def _row(name: str, value: float | str | list[list[float]]) -> str:
    if isinstance(value, list):
        points = "; ".join(" ".join(f"{number:.3g}" for number in point) for point in value)
        return f"{name:34} {points}"
    return f"{name:34} {value}" if isinstance(value, str) else f"{name:34} {value:12.3f}"
