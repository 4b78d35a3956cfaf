"""Score models on photographs whose holes are known, by size of the hole.

In: photographs, mask files, models. Out: by model and bucket, of whole composites, mean PSNR, SSIM,
LPIPS and both L1, and the Fréchet distance between the photographs and the results.

The protocol. Each photograph is cropped to its central square and scaled to one size; masks are
scaled to the same, and a mask's bucket is the share of the hole measured then. For every bucket
each photograph gets one mask, which `choose` takes by the photograph's name alone, so that runs,
models and a `limit` agree about it. Everything goes through `inpaint.restore.restore` with a
`Filler`, as in serving; scores compare the 8-bit result with the photograph.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from inpaint.errors import BadData, InpaintError, MaskEmpty, MaskFull, ModelFailed, UnknownModel
from inpaint.highres import Filler
from inpaint.mask import Hole
from inpaint.patches import Refine
from inpaint.picture import decode
from inpaint.restore import restore
from models import checkpoint
from models.classical import Classical
from models.filler import TorchFiller
from models.registry import GENERATORS, create
from models.tensors import to_image

from . import frechet, metrics
from .biharmonic import Biharmonic
from .data import image_files
from .holes import read_mask_file
from .lpips import LPIPS, Trunk

Pixels = NDArray[np.uint8]
Row = dict[str, float]  # score by name
Scores = dict[str, dict[str, dict[str, float | int | None]]]  # by model, bucket and name

# Names by the largest share of the hole that belongs to them; the first begins at SMALLEST.
BUCKETS = {"01-10": 0.1, "10-20": 0.2, "20-30": 0.3, "30-40": 0.4, "40-50": 0.5, "50-60": 0.6}
SMALLEST = 0.01
LPIPS_NAMES: dict[Trunk, str] = {"squeeze": "lpips", "alex": "lpips_alex"}  # network: score
REFERENCES = [name for name, kind in GENERATORS.items() if issubclass(kind, Classical)]
MEANS = ("psnr", "ssim", *LPIPS_NAMES.values(), "l1", "l1_relative")  # of the photographs' scores
BATCH = 8 * 256 * 256  # pixels that a feature network sees at once: more would leave a core's cache


@dataclass(frozen=True)
class Photographs:
    """What is scored, by file name, and the files that could not be read, with the reason."""

    squares: dict[str, Pixels]  # of one size, but for `read_each`
    skipped: dict[str, str]


def open_models(models: Sequence[str], device: str = "cpu") -> dict[str, Filler]:
    """Return the fillers by name: `models`, and after them the classical ones, which never miss.

    Args:
        models: paths of checkpoints, names of shipped ones, or names of classical models;
            "biharmonic" too, which nothing serves.
        device: where learned models compute.

    Raises:
        UnknownModel: if there is neither a file nor a model of a name.
        BadCheckpoint: naming the file and the reason.
    """
    fillers: dict[str, Filler] = {}
    with as_file(files("models") / "checkpoints") as shipped:
        for word in models:
            if word in REFERENCES:
                continue
            if word == "biharmonic":
                fillers[word] = Biharmonic()
                continue
            path = Path(word)
            if path.suffix != checkpoint.SUFFIX:
                path = shipped / f"{word}{checkpoint.SUFFIX}"
            if not path.is_file():
                raise UnknownModel(f"{word} is neither a checkpoint's path nor a shipped model")
            generator, header = checkpoint.load(path)
            if header.name in fillers:
                raise UnknownModel(f"two models are called {header.name}; scores need two names")
            fillers[header.name] = TorchFiller(generator, device)
    return fillers | {name: TorchFiller(create(name, {})) for name in REFERENCES}


def read_photographs(folder: Path, size: int, limit: int | None = None) -> Photographs:
    """Read the central square of every photograph under `folder`, scaled to (size,size,3).

    Arguments and refusals as of `read_each`; `size` is the side of the squares, pixels.
    """
    return read_each(folder, lambda pixels: central_square(pixels, size), limit)


def read_each(
    folder: Path, cut: Callable[[Pixels], Pixels], limit: int | None = None
) -> Photographs:
    """Read what is wanted of every photograph under `folder`.

    Args:
        folder: image files, in sub-folders too.
        cut: from the pixels (H,W,3) of a photograph to those that are scored.
        limit: take so many, spread evenly over the sorted names.

    Raises:
        BadData: if there is no image file, or none can be read.
    """
    files = _files(folder)
    if limit is not None and limit < len(files):
        files = [files[number * len(files) // limit] for number in range(limit)]
    squares, skipped = {}, {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            squares[name] = cut(decode(path.read_bytes()).pixels)
        except InpaintError as error:
            skipped[name] = error.detail
        except OSError as error:
            skipped[name] = error.strerror or "it cannot be read"
    if not squares:
        raise BadData(f"no image under {folder} can be read; {_first(skipped)}")
    return Photographs(squares, skipped)


def central_square(pixels: Pixels, size: int) -> Pixels:
    """Cut the largest square out of the middle and scale it to (size,size,3)."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def read_holes(folder: Path, size: int) -> dict[str, list[Hole]]:
    """Read every mask under `folder` (white = hole), scaled to (size,size), by bucket.

    Buckets without a mask are absent; masks outside all buckets are left out.

    Raises:
        BadData: if no mask belongs to a bucket, or one cannot be read or is gray: to leave it out
            would give other masks to all photographs.
    """
    found: dict[str, list[Hole]] = {name: [] for name in BUCKETS}
    for path in _files(folder):
        try:
            hole = read_mask_file(path, size)
        except (MaskEmpty, MaskFull):
            continue  # outside all buckets
        bucket = bucket_of(float(hole.mean()))
        if bucket is not None:
            found[bucket].append(hole)
    if not any(found.values()):
        raise BadData(f"no mask under {folder} has a hole of 1 % to 60 % of the picture")
    return {name: holes for name, holes in found.items() if holes}


def bucket_of(share: float) -> str | None:
    """Return the bucket of a hole that covers this share of the picture, or None."""
    if share < SMALLEST:
        return None
    return next((name for name, largest in BUCKETS.items() if share <= largest), None)


def choose(name: str, bucket: str, count: int) -> int:
    """Return which of a bucket's masks, in the order of their paths, belongs to a photograph."""
    return zlib.crc32(f"{name} {bucket}".encode()) % count


def evaluate(
    photographs: Mapping[str, Pixels],
    holes: Mapping[str, Sequence[Hole]],
    fillers: Mapping[str, Filler],
    distances: Mapping[Trunk, LPIPS],
    *,
    refine: Refine = "auto",
    pooled: Mapping[str, frechet.Network] | None = None,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> Scores:
    """Return the scores of every model in every bucket.

    Args:
        photographs: squares uint8 (S,S,3) by name.
        holes: bool (S,S), True = hole, by bucket.
        fillers: models by name.
        distances: LPIPS by the name of its network; a missing one scores None.
        refine: what is done to the fills of all models.
        pooled: Fréchet distances to take, by the name of their network; two photographs at least.
        workers: photographs that are filled and scored at the same time.
        progress: called after each photograph.

    Raises:
        ModelFailed: naming the model.
    """
    pooled = pooled or {}
    keys = [(model, bucket) for model in fillers for bucket in holes]
    rows: dict[tuple[str, str], list[Row]] = {key: [] for key in keys}
    # By network: statistics of the photographs, then of each key's results.
    sets = {network: [frechet.Statistics() for _ in (None, *keys)] for network in pooled}

    def score(name: str) -> tuple[list[Row], dict[str, Tensor]]:
        photograph = photographs[name]
        chosen = [choices[choose(name, bucket, len(choices))] for bucket, choices in holes.items()]
        results = [
            result
            for model, filler in fillers.items()
            for result in _fill_all(photograph, chosen, model, filler, refine)
        ]
        looks = {name: _look(network, [photograph, *results]) for name, network in pooled.items()}
        return compare(photograph, results, distances), looks

    with ThreadPoolExecutor(workers) as pool:
        for scored, looks in pool.map(score, photographs):  # in their order: sums stay the same
            for key, row in zip(keys, scored, strict=True):
                rows[key].append(row)
            for network, features in looks.items():
                for statistics, feature in zip(sets[network], features, strict=True):
                    statistics.add(feature[None])
            progress()
    scores: Scores = {model: {} for model in fillers}
    for place, (model, bucket) in enumerate(keys):
        scores[model][bucket] = _mean(rows[model, bucket]) | {
            frechet.score(network): frechet.distance(real, results[place])
            for network, (real, *results) in sets.items()
        }
    return scores


def _fill_all(
    photograph: Pixels, holes: Sequence[Hole], model: str, filler: Filler, refine: Refine
) -> list[Pixels]:
    try:
        return [restore(photograph, hole, filler, refine=refine) for hole in holes]
    except ModelFailed as error:
        raise ModelFailed(f"{model}: {error.detail}") from error


def compare(
    photograph: Pixels, results: Sequence[Pixels], distances: Mapping[Trunk, LPIPS]
) -> list[Row]:
    """Return all scores of each result, uint8 (S,S,3) like the photograph."""
    rows = [
        {
            "psnr": metrics.psnr(photograph, result),
            "ssim": metrics.ssim(photograph, result),
            "l1": metrics.l1(photograph, result),
            "l1_relative": metrics.l1_relative(photograph, result),
        }
        for result in results
    ]
    for network, lpips in distances.items():
        with torch.no_grad():
            expected = lpips.directions(to_image(photograph[None]))
            found = [lpips.distance(expected, lpips.directions(x)) for x in _images(results)]
        for row, value in zip(rows, torch.cat(found).tolist(), strict=True):
            row[LPIPS_NAMES[network]] = value
    return rows


def _look(network: frechet.Network, pictures: Sequence[Pixels]) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(image) for image in _images(pictures)])


def _images(pictures: Sequence[Pixels]) -> Iterator[Tensor]:
    height, width = pictures[0].shape[:2]
    step = max(1, BATCH // (height * width))
    for start in range(0, len(pictures), step):
        yield to_image(np.stack(pictures[start : start + step]))


def examples(
    photographs: Mapping[str, Pixels],
    holes: Mapping[str, Sequence[Hole]],
    fillers: Mapping[str, Filler],
    refine: Refine = "auto",
) -> list[list[Pixels]]:
    """Return a row of photograph, masked, and every model's result for each bucket."""
    names = list(photographs)
    rows = []
    for number, (bucket, choices) in enumerate(holes.items()):
        name = names[number * len(names) // len(holes)]
        photograph, hole = photographs[name], choices[choose(name, bucket, len(choices))]
        results = [restore(photograph, hole, each, refine=refine) for each in fillers.values()]
        rows.append([photograph, masked(photograph, hole), *results])
    return rows


def masked(photograph: Pixels, hole: Hole) -> Pixels:
    """Return the photograph with a white hole, as it is shown to people."""
    return np.where(hole[..., None], np.uint8(255), photograph)


def _mean(rows: Sequence[Row]) -> dict[str, float | int | None]:
    means: dict[str, float | int | None] = {"n": len(rows)}
    for name in MEANS:
        values = [row[name] for row in rows if name in row]
        means[name] = float(np.mean(values)) if values else None
    return means


def _files(folder: Path) -> list[Path]:
    files = image_files(folder)
    if not files:
        raise BadData(f"{folder} holds no image files")
    return files


def _first(skipped: Mapping[str, str]) -> str:
    name, reason = next(iter(skipped.items()))
    return f"the first, {name}: {reason}"
