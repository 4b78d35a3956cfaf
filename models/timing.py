"""How long something takes, in turn with something else, and on which machine: `inpaint bench`."""

import platform
import time
from collections.abc import Callable

import torch

LEAST_PAIRS = 3  # of runs in turn


def seconds(run: Callable[[], object]) -> float:
    """Return how long one run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def fastest_in_turn(
    first: Callable[[], object], second: Callable[[], object], *, at_least: float
) -> tuple[float, float]:
    """Return the seconds of the fastest run of each; both run once before, uncounted.

    They alternate, so that a machine that becomes slower slows both.

    Args:
        first: waits until a device has done its work, as `second` does.
        second: the other one.
        at_least: go on for so many seconds.
    """
    first(), second()
    end = time.perf_counter() + at_least
    pairs: list[tuple[float, float]] = []
    while len(pairs) < LEAST_PAIRS or time.perf_counter() < end:
        pairs.append((seconds(first), seconds(second)))
    one, other = (min(times) for times in zip(*pairs, strict=True))
    return one, other


def machine(device: str) -> str:
    """Say what computes: the processor and its threads, or the GPU."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
