"""Folders of scans for `inpaint run` and `inpaint album`, and what they were made into."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.cli import main
from inpaint.picture import decode

HEIGHT, WIDTH = 96, 128
SCRATCH = np.s_[20:76, 60:63]
NAMES = ["1931/c.webp", "1931/summer/a.jpg", "a.TIF", "b.png", "whole.png"]


def drawn(seed=0, scratched=True):
    """Dull noise, with a white line unless it is to be whole."""
    pixels = np.random.default_rng(seed).integers(40, 160, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    if scratched:
        pixels[SCRATCH] = 255
    return pixels


def write_scans(folder):
    """Write photographs below `folder / "scans"`, one of them without damage."""
    (folder / "scans" / "1931" / "summer").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.TIF", "1931/c.webp", "1931/summer/a.jpg")):
        Image.fromarray(drawn(number)).save(folder / "scans" / name, quality=95, lossless=True)
    Image.fromarray(drawn(9, scratched=False)).save(folder / "scans" / "whole.png")


def write_many(folder, seeds):
    """Write photographs that take a while into `folder / "many"`, and a mask for all of them.

    Returns:
        The options that restore them.
    """
    (folder / "many").mkdir()
    for number, seed in enumerate(seeds):
        pixels = np.tile(drawn(seed), (4, 4, 1))
        Image.fromarray(pixels).save(folder / "many" / f"{number:02}.png", compress_level=1)
    hole = np.tile(np.arange(4 * WIDTH) % 64 < 8, (4 * HEIGHT, 1))
    Image.fromarray(hole).save(folder / "stripes.png")
    return ["many", "-o", "out", "--mask", "stripes.png"]


def run(*arguments):
    """Run a command; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code


def start(*arguments, **options):
    """Start a command as a process of its own."""
    command = [sys.executable, "-m", "inpaint", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, **options)


def written(folder="out"):
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files if path.name[0] != ".")


def samples(path):
    return decode(Path(path).read_bytes()).samples


def stamps(folder="out"):
    return {name: (Path(folder) / name).stat().st_mtime_ns for name in written(folder)}


def report(path="report.json"):
    return json.loads(Path(path).read_text())
