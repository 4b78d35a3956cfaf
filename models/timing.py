"""How long something takes, in turn with something else, and on which machine: `inpaint bench`."""

import platform
import time
from collections.abc import Callable

import torch

LEAST_ROUNDS = 3  # of runs in turn


def seconds(run: Callable[[], object]) -> float:
    """Return how long one run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def fastest_in_turn(*runs: Callable[[], object], at_least: float) -> list[float]:
    """Return the seconds of the fastest run of each; all run once before, uncounted.

    They alternate, so that a machine that becomes slower slows all.

    Args:
        runs: each waits until a device has done its work.
        at_least: go on for so many seconds.
    """
    for run in runs:
        run()
    end = time.perf_counter() + at_least
    rounds: list[list[float]] = []
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        rounds.append([seconds(run) for run in runs])
    return [min(times) for times in zip(*rounds, strict=True)]


def machine(device: str) -> str:
    """Say what computes: the processor and its threads, or the GPU."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
