"""Labels of photographs: from the folders they lie in, or from a CSV file.

In: where labels come from, and the photographs' names as `training.data` gives them (paths below
the data folder; `SHARD:MEMBER` in a shard). Out: the classes' names, and each photograph's number.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inpaint.errors import BadData

FOLDERS = "folders"  # the word that asks for the names of folders
UNLABELLED = -1
COLUMNS = ("file", "class")


@dataclass(frozen=True)
class Labels:
    """What is known about N photographs.

    Attributes:
        classes: the names, sorted.
        numbers: int64 (N,): each photograph's place in `classes`, -1 = unlabelled.
    """

    classes: tuple[str, ...]
    numbers: NDArray[np.int64]


def read(
    labels: str,
    names: Sequence[str],
    *,
    skipped: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> Labels:
    """Return the label of every photograph.

    Args:
        labels: "folders": a photograph's class is the first folder of its name, and one that lies
            in no folder is unlabelled. Anything else is the path of a CSV file with the columns
            `file` and `class`; what it does not name is unlabelled.
        names: of the photographs.
        skipped: "name: reason" of photographs that could not be read; a CSV file may name them.
        classes: the only ones there may be, in the order in which they are numbered; without it
            they are those found, sorted, and must be two at least.

    Raises:
        BadData: naming the file and the row.
    """
    if labels == FOLDERS:
        origin, found = "the data", dict(_of_folders(names))
    else:
        origin, found = labels, _of_csv(Path(labels), names, skipped)
    if not found:
        raise BadData(f"{origin}: no photograph has a label; they come from folders or a CSV file")
    seen = sorted(set(found.values()))
    if classes is None and len(seen) == 1:
        raise BadData(f"{origin}: the only class is {seen[0]!r}; two are needed at least")
    known = tuple(seen if classes is None else classes)
    if strange := [name for name in seen if name not in known]:
        raise BadData(f"{origin}: the class {strange[0]!r} is none of {', '.join(known)}")
    place = {name: number for number, name in enumerate(known)}
    numbers = [place[found[name]] if name in found else UNLABELLED for name in names]
    return Labels(known, np.array(numbers, np.int64))


def _of_folders(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and class of every photograph that lies in a folder, in its shard or outside."""
    for name in names:
        folder, slash, _ = name.rpartition(":")[2].partition("/")
        if slash:
            yield name, folder


def _of_csv(path: Path, names: Sequence[str], skipped: Sequence[str]) -> dict[str, str]:
    """Return the class of each name that the file names."""
    count = Counter(names)
    unread = {line.partition(": ")[0] for line in skipped}
    found: dict[str, str] = {}
    rows: dict[str, int] = {}
    for row, name, label in _rows(path):
        where = f"{path}, row {row}: {name!r}"
        if count[name] > 1:
            raise BadData(f"{where} lies in {count[name]} of the data folders; one is needed")
        if name not in count and name not in unread:
            raise BadData(f"{where} is no photograph of the data; names are paths below its folder")
        if not label:
            raise BadData(f"{where} has an empty class; leave unlabelled photographs out")
        if rows.setdefault(name, row) != row and found.get(name, label) != label:
            raise BadData(f"{where} is {label!r}, but {found[name]!r} in row {rows[name]}")
        if name in count:
            found[name] = label
    return found


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the line's number, file and class of every row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                seen = ", ".join(rows.fieldnames or ()) or "none"
                raise BadData(f"{path} has no column {missing[0]!r}; its columns are {seen}")
            for row in rows:
                yield rows.line_num, row["file"] or "", (row["class"] or "").strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"labels {path} cannot be read: {error}") from error
