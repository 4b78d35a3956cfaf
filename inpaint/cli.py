"""The console script `inpaint`: a table of commands, each found by name when it is chosen.

Only the chosen command's module is imported, so `inpaint --help` needs neither torch nor FastAPI.
A refusal is one line on stderr. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 some of
many failed, 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import typer

from .errors import InpaintError, StartFailed
from .terminal import printable


class Command(NamedTuple):
    """Where a command is found, and its line in the help."""

    target: str  # "package.module:function"
    help: str


COMMANDS = {
    "serve": Command("service.commands:serve", "Answer HTTP; --embedded starts all the rest too."),
    "worker": Command("worker.commands:worker", "Load the models and take jobs from the queue."),
    "run": Command("worker.run:run", "Restore pictures, or folders of them, without a server."),
    "mask": Command("worker.run:propose", "Write masks of the damage in pictures."),
    "album": Command("service.album_run:album", "Restore folders of pictures through a server."),
    "import": Command("models.commands:import_weights", "Make a checkpoint of published weights."),
    "demo": Command("service.demo:demo", "Restore a real photograph: before | mask | after."),
    "train": Command(
        "training.commands:train",
        "Train a generator from a recipe; `inpaint train holes` draws a sheet of training holes.",
    ),
    "train holes": Command("training.sheet:draw_sheet", "Draw a sheet of training holes."),
    "eval": Command(
        "training.scoring:evaluate",
        "Score models on photographs with real holes; `inpaint eval damage` scores a detector, "
        "`inpaint eval repair` both together, `inpaint eval large` fills of large photographs.",
    ),
    "eval repair": Command(
        "training.repair_scoring:evaluate", "Score detection and filling on rendered damage."
    ),
    "eval large": Command(
        "training.large_scoring:evaluate", "Score fills at native size, on large photographs."
    ),
    "eval damage": Command(
        "training.finding:evaluate", "Score a detector of damage on rendered damage."
    ),
    "export": Command("training.commands:export", "Make a checkpoint from a training run."),
    "classify": Command("training.classify:classify", "Name the classes of photographs."),
    "bench fill": Command("worker.bench:fill", "Time generators as served against plain fp32."),
    "bench train": Command("training.bench:train", "Time a training step of each system."),
    "bench serve": Command("service.bench:serve", "Time what the service adds around the model."),
    "bench album": Command("service.bench_album:album", "Time an album of damaged scans."),
    "bench chaos": Command("service.chaos:chaos", "Kill everything at random; lose no job."),
    "bench album-chaos": Command(
        "service.album_chaos:album_chaos", "Kill parts while an album runs; lose no photograph."
    ),
    "bench ablations": Command(
        "training.ablations:ablations", "Train variants of a recipe at equal compute; score them."
    ),
    "bench labels": Command("training.labels_bench:labels", "Compare few labels with many."),
}
GROUPS = {
    "bench": "Measure speed and memory.",
    "eval": "Score models.",
    "train": "Train a generator.",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command that `arguments` (by default the process's own) name, and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # NumPy's products, each in a thread of its own picture; read when NumPy is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        parser(arguments)(arguments, prog_name="inpaint")
    except InpaintError as error:
        print(f"inpaint: {printable(error.detail)} ({error.code})", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # while a command's module is being imported
        sys.exit(130)


def parser(arguments: list[str]) -> typer.Typer:
    """Build the command line: the chosen command as it is, the others by their help alone."""
    chosen = max((words for words in COMMANDS if _begin(arguments, words)), key=len, default="")
    top = _app("Fill holes in photographs.")
    groups = {"": top}
    for words, command in COMMANDS.items():
        group, _, name = words.rpartition(" ")
        # A word is a command or a group: of `train` and `train holes` only the chosen one is built.
        if (group in COMMANDS and words != chosen) or chosen.startswith(f"{words} "):
            continue
        if group not in groups:
            groups[group] = _app(GROUPS[group])
            top.add_typer(groups[group], name=group)
        function = resolve(words, command.target) if words == chosen else _unchosen
        groups[group].command(name, help=command.help)(function)
    return top


def resolve(words: str, target: str) -> Callable[..., object]:
    """Import the function of a command.

    Raises:
        StartFailed: if something that it needs is not installed here, with what would install it.
    """
    module, _, function = target.partition(":")
    try:
        found: Callable[..., object] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        extra = "[demo]" if words == "demo" else ""
        raise StartFailed(
            f"`inpaint {words}` needs {error.name}, which is not installed here. Install the whole "
            f"project: pip install -c constraints.txt '.{extra}'"
        ) from error
    return found


def _begin(arguments: list[str], words: str) -> bool:
    return arguments[: len(words.split())] == words.split()


def _app(text: str) -> typer.Typer:
    return typer.Typer(
        help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )


def _unchosen() -> None:
    """Stand for a command that was not chosen; it is never run."""
    raise AssertionError("a command that was not chosen was run")
