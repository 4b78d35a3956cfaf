"""Which files belong together in `inpaint run`: a picture, its mask, and where the result goes.

All of it is settled, and refused, before a model is loaded: nothing is written over by accident.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from inpaint.errors import InpaintError, MaskMissing, MaskUnreadable, StartFailed
from inpaint.picture import OutputFormat

SUFFIXES: dict[str, OutputFormat] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}


@dataclass(frozen=True)
class Pair:
    """A picture and its mask.

    Attributes:
        image: a file.
        mask: a file; None takes the picture's own transparency; a refusal says what is wrong.
        output: the file to write.
    """

    image: Path
    mask: Path | InpaintError | None
    output: Path


def pair(
    images: Sequence[Path], masks: Path | None, output: Path, format: OutputFormat
) -> tuple[list[Pair], OutputFormat]:
    """Find each picture's mask and name its result.

    Args:
        images: the pictures, in the order in which they are asked for.
        masks: one file for all of them, or a folder of files with their stems; None for none.
        output: a folder; or a file, where there is one picture and a suffix of a format.
        format: of the results.

    Returns:
        The pairs, and the format, which the suffix of a file decides where `same` is asked for.

    Raises:
        BadParameter: if masks or output are no use, or results would have one name.
    """
    if masks is not None and not masks.exists():
        raise typer.BadParameter(f"There is no file or folder {masks}.", param_hint="--mask")
    suffix = SUFFIXES.get(output.suffix.lower())
    if suffix is not None and not output.is_dir():
        if len(images) > 1:
            raise typer.BadParameter(
                f"{output} is one file, and there are {len(images)} pictures: name a folder.",
                param_hint="--output",
            )
        if format not in ("same", suffix):
            raise typer.BadParameter(
                f"{output} has the suffix of {suffix}, and {format} is asked for.",
                param_hint="--output",
            )
        return [Pair(images[0], _mask(images[0], masks), output)], suffix
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is no folder.", param_hint="--output")
    outputs: dict[Path, Path] = {}
    for image in images:
        result = output / _name(image, format)
        if result in outputs:
            raise typer.BadParameter(
                f"{outputs[result]} and {image} would both be written to {result}.",
                param_hint="IMAGE...",
            )
        outputs[result] = image
    return [Pair(image, _mask(image, masks), result) for result, image in outputs.items()], format


def check(pairs: Sequence[Pair], report: Path | None, *, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        StartFailed: naming a file that is an input, or that is there and may not be overwritten.
    """
    inputs = {each.image.resolve() for each in pairs}
    inputs |= {each.mask.resolve() for each in pairs if isinstance(each.mask, Path)}
    outputs = [each.output for each in pairs] + ([report] if report else [])
    for output in outputs:
        if output.resolve() in inputs:
            raise StartFailed(f"{output} is an input: results go to another folder.")
    if report is not None and report.resolve() in {each.output.resolve() for each in pairs}:
        raise StartFailed(f"{report} would be both the report and a picture.")
    there = [output for output in outputs if output.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise StartFailed(f"{there[0]}{more} is there already; --overwrite replaces it.")
    for folder in {output.parent for output in outputs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartFailed(f"{folder} cannot be made: {error.strerror}.") from error


def _mask(image: Path, masks: Path | None) -> Path | InpaintError | None:
    if masks is None or not masks.is_dir():
        return masks
    found = sorted(
        path
        for path in masks.iterdir()
        if path.stem == image.stem
        and path.suffix.lower() in SUFFIXES
        and path.resolve() != image.resolve()
    )
    if not found:
        return MaskMissing(f"There is no mask {image.stem}.png, or of another format, in {masks}.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        return MaskUnreadable(f"More than one mask has this name in {masks}: {names}.")
    return found[0]


def _name(image: Path, format: OutputFormat) -> str:
    """Name a result as its picture; with a suffix of its format, where that is another one."""
    suffix = image.suffix
    if format != "same" and SUFFIXES.get(suffix.lower()) != format:
        suffix = next(each for each, name in SUFFIXES.items() if name == format)
    return image.stem + suffix
