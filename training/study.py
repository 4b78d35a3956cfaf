"""A user study as one HTML file: pairs of results, of which a person chooses the better one.

In: photographs, holes, models. Out: a page that needs no network and no server; its text and code
are in `study.html`, the pictures and pairs are put into it here. Each pair shows two models'
results for one photograph and hole, and the masked photograph; the page draws order and sides
anew for every viewer, and keeps the models' names to itself until the end.
"""

import base64
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.highres import Filler
from inpaint.mask import Hole
from inpaint.patches import Refine
from inpaint.restore import restore

from .evaluate import REFERENCES, choose, masked

Pixels = NDArray[np.uint8]

LARGEST = 32_000_000  # bytes of pictures in a page, as written; pairs, but for the first, end there
QUALITY = 95  # of JPEG, colours at full resolution: the choice is not to be about compression
PLACE = "STUDY_DATA"  # in the page


@dataclass(frozen=True)
class Pair:
    """Two models, by name, that fill the same hole of the same photograph."""

    photograph: str
    bucket: str
    models: tuple[str, str]


def draw_pairs(
    models: Sequence[str], photographs: Sequence[str], buckets: Sequence[str], count: int
) -> list[Pair]:
    """Return `count` different pairs, or as many as there are; always the same ones.

    All combinations of models are drawn equally often. Two classical models are compared only if
    there is no other: that choice says nothing about what was trained.
    """
    combined = list(combinations(models, 2))
    learned = [two for two in combined if not set(two) <= set(REFERENCES)]
    rng = random.Random(0)
    decks = []
    for two in learned or combined:
        deck = [Pair(name, bucket, two) for name, bucket in product(photographs, buckets)]
        rng.shuffle(deck)
        decks.append(deck)
    return [pair for drawn in zip(*decks, strict=True) for pair in drawn][:count]


def write(
    photographs: Mapping[str, Pixels],
    holes: Mapping[str, Sequence[Hole]],
    fillers: Mapping[str, Filler],
    count: int,
    path: Path,
    refine: Refine = "auto",
) -> int:
    """Fill the holes of `count` pairs and write the page; return how many pairs are in it.

    Args:
        photographs: squares uint8 (S,S,3) by name.
        holes: bool (S,S), True = hole, by bucket; photographs get those that they are scored with.
        fillers: models by name, two at least.
        count: pairs wanted. There are fewer if the pictures would exceed `LARGEST`.
        path: the HTML file.
        refine: what is done to the fills of all models.
    """
    pictures: dict[tuple[str, str, str], str] = {}  # data URIs, each once
    shown: list[dict[str, object]] = []
    for pair in draw_pairs(list(fillers), list(photographs), list(holes), count):
        photograph, choices = photographs[pair.photograph], holes[pair.bucket]
        hole = choices[choose(pair.photograph, pair.bucket, len(choices))]
        keys = [(pair.photograph, pair.bucket, model) for model in ("", *pair.models)]
        new = {
            key: data_uri(
                restore(photograph, hole, fillers[key[2]], refine=refine)
                if key[2]
                else masked(photograph, hole)
            )
            for key in keys
            if key not in pictures
        }
        if shown and sum(map(len, (pictures | new).values())) > LARGEST:
            break
        pictures |= new
        masked_place, *results = (list(pictures).index(key) for key in keys)
        shown.append(
            {
                "photograph": pair.photograph,
                "bucket": pair.bucket,
                "models": [list(fillers).index(model) for model in pair.models],
                "masked": masked_place,
                "results": results,
            }
        )
    study = {"models": list(fillers), "pictures": list(pictures.values()), "pairs": shown}
    page = files(__package__).joinpath("study.html").read_text(encoding="utf-8")
    data = json.dumps(study).replace("<", "\\u003c")  # no name may end the script that holds it
    path.write_text(page.replace(PLACE, data), encoding="utf-8")
    return len(shown)


def data_uri(pixels: Pixels) -> str:
    """Return the picture as a JPEG that stands in the page itself."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
