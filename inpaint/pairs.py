"""Which files belong together: a picture, its mask, and where the result goes.

In: pictures, and folders of them, as a command line names them. Out: a `Pair` for each, in a fixed
order, with the folders kept. All of it is settled, and refused, before a model is loaded or
anything is sent: nothing is written over by accident.
"""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NoReturn

import typer

from .errors import InpaintError, MaskMissing, MaskUnreadable, StartFailed
from .picture import OutputFormat
from .terminal import printable

SUFFIXES: dict[str, OutputFormat] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
IMAGES = "IMAGE..."  # what they are called in the help of the commands


@dataclass(frozen=True)
class Pair:
    """A picture and its mask.

    Attributes:
        name: of the picture, with the folders below the one that was named, divided by `/`.
        image: a file.
        mask: a file; None: none was named; a refusal says what is wrong.
        output: the file to write.
    """

    name: str
    image: Path
    mask: Path | InpaintError | None
    output: Path


@dataclass(frozen=True)
class Pairs:
    """What a command is to do.

    Attributes:
        all: in the order in which they are asked for, of a folder by name.
        format: of the results; the suffix of a single output file decides it.
        folder: of the results; None: there is one result, which is a file by name.
        others: how many files of each suffix lie in the folders and are no pictures by their names.
    """

    all: list[Pair]
    format: OutputFormat
    folder: Path | None
    others: Counter[str]


def pair(images: Sequence[Path], masks: Path | None, output: Path, format: OutputFormat) -> Pairs:
    """Find the pictures, each one's mask, and name the results.

    Of folders, those below them too are looked through for files with a suffix of a picture.
    Hidden ones are left out, and those of the results and the masks.

    Args:
        images: pictures, and folders of them.
        masks: one file for all of them, or a folder of files with their stems, in the folders that
            they have below `images`; None for none.
        output: a folder; or a file, where one picture is named and a suffix of a format.
        format: of the results.

    Raises:
        BadParameter: if a file is missing, masks or output are no use, or results would have one
            name.
    """
    for each in images:
        if not each.exists():
            _refuse(f"There is no file or folder {each}.", IMAGES)
    if masks is not None and not masks.exists():
        _refuse(f"There is no file or folder {masks}.", "--mask")
    if (written := _single(images, output, format)) is not None:
        name = PurePath(images[0].name)
        only = Pair(str(name), images[0], Masks(masks).of(images[0], name), output)
        return Pairs([only], written, None, Counter())
    if output.exists() and not output.is_dir():
        _refuse(f"{output} is no folder.", "--output")
    found, others = _find(images, {each.resolve() for each in (output, masks) if each})
    if not found:
        _refuse(f"There is no picture in {images[0]}: {_suffixes()} are looked for.", IMAGES)
    seen = Masks(masks)
    pairs: dict[Path, Pair] = {}
    for image, name in found:
        result = output / name.parent / _name(name, format)
        if result in pairs:
            both = f"{pairs[result].image} and {image}"
            _refuse(f"{both} would both be written to {result}.", IMAGES)
        pairs[result] = Pair(name.as_posix(), image, seen.of(image, name), result)
    return Pairs(list(pairs.values()), format, output, others)


def check(
    pairs: Sequence[Pair], report: Path | None, *, overwrite: bool, ours: Collection[Path] = ()
) -> None:
    """Refuse to write over what is there, and make the folders.

    Args:
        pairs: all of a run.
        report: a file that is written too.
        overwrite: whether results may be replaced.
        ours: results that may be replaced in any case.

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
    there = [output for output in outputs if output.exists() and output not in ours]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise StartFailed(
            f"{there[0]}{more} is there already; --overwrite replaces it, --resume goes on with "
            "what an earlier run of this command has left."
        )
    for folder in {output.parent for output in outputs}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartFailed(f"{folder} cannot be made: {error.strerror}.") from error


class Masks:
    """Masks for pictures: one for all of them, or a folder in which they go by stems."""

    def __init__(self, masks: Path | None) -> None:
        self._masks = masks
        self._folders: dict[Path, list[Path]] = {}  # by folder, what may be masks in it

    def of(self, image: Path, name: PurePath) -> Path | InpaintError | None:
        """The mask of a picture; a refusal if there is none, or more than one."""
        if self._masks is None or not self._masks.is_dir():
            return self._masks
        folder = self._masks / name.parent
        found = [
            path
            for path in self._listed(folder)
            if path.stem == name.stem and path.resolve() != image.resolve()
        ]
        if not found:
            return MaskMissing(
                f"There is no mask {name.stem}.png, or of another format, in {folder}."
            )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            return MaskUnreadable(f"More than one mask has this name in {folder}: {names}.")
        return found[0]

    def _listed(self, folder: Path) -> list[Path]:
        if folder not in self._folders:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            self._folders[folder] = [path for path in files if path.suffix.lower() in SUFFIXES]
        return self._folders[folder]


def _single(images: Sequence[Path], output: Path, format: OutputFormat) -> OutputFormat | None:
    """The format of the one file to write; None: results go into a folder."""
    if output.is_dir():
        return None
    suffix = SUFFIXES.get(output.suffix.lower())
    many = len(images) > 1 or images[0].is_dir()
    if suffix is None:
        if output.suffix and not many and not output.exists():
            _refuse(
                f"{output} has no suffix of a format that is written ({_suffixes()}). A folder of "
                "such a name has to be there already.",
                "--output",
            )
        return None
    if many:
        seen = f"there are {len(images)} pictures" if len(images) > 1 else f"{images[0]} is many"
        _refuse(f"{output} is one file, and {seen}: name a folder.", "--output")
    if format not in ("same", suffix):
        _refuse(f"{output} has the suffix of {suffix}, and {format} is asked for.", "--output")
    return suffix


def _find(
    images: Sequence[Path], without: Collection[Path]
) -> tuple[list[tuple[Path, PurePath]], Counter[str]]:
    """Each picture with its name below the folder that was named; what else there is, by suffix."""
    found, others = [], Counter[str]()
    for named in images:
        if not named.is_dir():
            found.append((named, PurePath(named.name)))
            continue
        for folder, inside, files in os.walk(named, onerror=_unreadable):
            here = Path(folder)
            inside[:] = [
                each
                for each in sorted(inside)
                if not each.startswith(".") and (here / each).resolve() not in without
            ]
            for each in sorted(files):
                if each.startswith(".") or (here / each).resolve() in without:
                    continue
                if (suffix := PurePath(each).suffix.lower()) in SUFFIXES:
                    found.append((here / each, (here / each).relative_to(named)))
                elif suffix != ".part":
                    others[suffix or "no suffix"] += 1
    return found, others


def _name(name: PurePath, format: OutputFormat) -> str:
    """Name a result as its picture; with a suffix of its format, where that is another one."""
    suffix = name.suffix
    if format != "same" and SUFFIXES.get(suffix.lower()) != format:
        suffix = next(each for each, kind in SUFFIXES.items() if kind == format)
    return name.stem + suffix


def _suffixes() -> str:
    return ", ".join(SUFFIXES)


def _unreadable(error: OSError) -> None:
    _refuse(f"{error.filename} cannot be read: {error.strerror}.", IMAGES)


def _refuse(what: str, option: str) -> NoReturn:
    raise typer.BadParameter(printable(what), param_hint=option)
