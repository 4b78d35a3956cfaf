"""What the commands on many pictures have in common: their options, and how they end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from . import jobs, patches
from .pairs import IMAGES, Pairs, pair
from .picture import OutputFormat

AUTO = "auto"  # in the place of a mask: damage is to be found
MOST_GROWN = 128  # pixels, as through HTTP
FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130  # exit codes

Images = Annotated[
    list[Path], typer.Argument(help="Pictures, and folders of them.", metavar=IMAGES)
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the results; or a file, of one picture.")
]
Mask = Annotated[
    str | None,
    typer.Option(
        help="A mask for all pictures, white = hole; or a folder of masks with their names, in the "
        "same folders; or auto: damage is found. By default each picture's own transparency.",
        metavar="FILE|FOLDER|auto",
    ),
]
Sensitivity = Annotated[
    float | None,
    typer.Option(help="Of finding damage, 0 to 1; by default 0.5.", min=0, max=1),
]
Model = Annotated[str | None, typer.Option(help="Model; by default the service's.")]
Grow = Annotated[
    int | None,
    typer.Option(
        help="Widen the hole, pixels; by default 2 where damage is found, else 0.",
        min=0,
        max=MOST_GROWN,
    ),
]
Feather = Annotated[
    int, typer.Option(help="Blend its outermost pixels, pixels.", min=0, max=MOST_GROWN)
]
Refine = Annotated[
    patches.Refine,
    typer.Option(
        help="Of the fill: patches gives it the texture around it, full does so better and takes "
        "longer; auto is patches for learned models, none for classical ones."
    ),
]
Tone = Annotated[
    str,
    typer.Option(
        help="Afterwards, of the whole picture: denoise, fade, contrast; separated by commas.",
        metavar="NAMES",
    ),
]
Format = Annotated[OutputFormat, typer.Option(help="Of the results.")]
Quality = Annotated[
    int | None, typer.Option(help="Of JPEG and WebP; by default as before.", min=1, max=100)
]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Go on after a picture that fails.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on: leave out what an earlier run has done.")
]
Report = Annotated[
    Path | None, typer.Option(help="Write what was done here, as JSON.", dir_okay=False)
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option(help="By default the setting.")
]


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How a command deals with failures, and with what is there."""

    keep_going: bool
    overwrite: bool
    resume: bool
    report: Path | None


def given(**options: Any) -> dict[str, Any]:  # as settings and forms take them
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def tones(names: str) -> tuple[jobs.Tone, ...]:
    """Take the names of `--tone` apart.

    Raises:
        BadParameter: naming what is none, and the choices.
    """
    try:
        return TypeAdapter(jobs.Tones).validate_python(names)
    except ValidationError as error:
        fault = error.errors()[0]
        text = f"{fault['input']!r}: {fault['msg']}."
        raise typer.BadParameter(text, param_hint="--tone") from error


def find(
    images: list[Path],
    mask: str | None,
    output: Path,
    format: OutputFormat,
    sensitivity: float | None,
) -> Pairs:
    """Pair the pictures with their masks; where these are to be found there are none.

    Raises:
        BadParameter: as `pair`; if there is a sensitivity, and nothing is to be found.
    """
    if sensitivity is not None and mask != AUTO:
        raise typer.BadParameter("It is for --mask auto.", param_hint="--sensitivity")
    masks = None if mask is None or mask == AUTO else Path(mask)
    return pair(images, masks, output, format)
