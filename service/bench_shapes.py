"""What large pictures cost: many specks in one request, and what the time depends on.

Fills stay as the network makes them, but where a figure is named after refinement.
"""

import time
from statistics import median

from .bench_client import Answer, ask, post
from .bench_effort import PATIENT, PLAIN, SHIPPED, Effort, Figures, Say
from .bench_pictures import SPECK, box, jpeg, photograph, png, specks
from .bench_rates import bare
from .temporary import apart

SPECKS = 150
HOLE = 200  # of the hole's side in the curve over photographs, pixels
SHAPE = 4 / 3  # width over height


def many_specks(effort: Effort, say: Say) -> Figures:
    """150 specks on a 12-megapixel picture, against the network alone over the same windows."""
    width, height = _size(effort.scan_megapixels)
    image, mask = jpeg(photograph(width, height)), png(specks(width, height, SPECKS))
    served, alone, refined = [], [], []
    with apart(SHIPPED, variables=PATIENT) as parts, bare(parts, image, mask) as loop:
        files = {"image": image, "mask": mask}
        request = post("/inpaint", files, PLAIN)
        ask(parts.url, request)  # warm
        for _ in range(effort.rounds):
            served.append(_seconds(parts.url, request)[0])
            facts = loop.run(effort.seconds)
            alone.append(1 / facts["images_per_second"])
            refined.append(_seconds(parts.url, post("/inpaint", files))[0])
    say(
        f"{SPECKS} specks in {median(served):.2f} s,"
        f" {facts['windows']} windows alone in {median(alone):.2f} s,"
        f" refined in {median(refined):.2f} s"
    )
    ratios = [one / other for one, other in zip(served, alone, strict=True)]
    return {
        "specks_ratio": median(ratios),
        "specks_s": median(served),
        "specks_refined_s": median(refined),
    }


def curves(effort: Effort, say: Say) -> Figures:
    """How the time grows with the hole, and how it does not with the photograph."""
    by_hole: list[list[float]] = []
    refined: list[list[float]] = []
    by_photograph: list[list[float]] = []
    width, height = _size(effort.scan_megapixels)
    image = jpeg(photograph(width, height))
    with apart(SHIPPED, variables=PATIENT) as parts:
        for count in effort.hole_specks:
            mask = png(specks(width, height, count))
            for curve, fields in ((by_hole, PLAIN), (refined, {})):
                point = _point(parts.url, image, mask, effort, fields)
                curve.append([count * SPECK**2 / 1e6, *point])
                say(f"{count} specks in {_size_words(width, height)}: {_point_words(point)}")
        for megapixels in effort.photo_megapixels:
            size = _size(megapixels)
            mask = png(box(*size, min(HOLE, min(size) // 3)))
            point = _point(parts.url, jpeg(photograph(*size)), mask, effort, PLAIN)
            by_photograph.append([megapixels, *point])
            say(f"one hole in {_size_words(*size)}: {_point_words(point)}")
    return {
        "curve_hole_area": by_hole,
        "curve_hole_area_refined": refined,
        "curve_photo_area": by_photograph,
    }


def _point(
    url: str, image: bytes, mask: bytes, effort: Effort, fields: dict[str, str]
) -> list[float]:
    """Seconds of a request, as a median, and those of them in the network and in the codecs."""
    request = post("/inpaint", {"image": image, "mask": mask}, fields)
    answers = [_seconds(url, request) for _ in range(effort.repeats + 1)][1:]
    stages = [stage_seconds(answer) for _, answer in answers]
    return [
        median(seconds for seconds, _ in answers),
        median(stage["infer"] for stage in stages),
        median(stage["decode"] + stage["encode"] for stage in stages),
    ]


def stage_seconds(answer: Answer) -> dict[str, float]:
    """Read `Server-Timing`: `decode;dur=3.1, queue;dur=1.2` is in milliseconds."""
    pairs = (entry.strip().split(";dur=") for entry in answer.headers["server-timing"].split(","))
    return {name: float(milliseconds) / 1000 for name, milliseconds in pairs}


def _seconds(url: str, request: bytes) -> tuple[float, Answer]:
    began = time.perf_counter()
    answer = ask(url, request)
    return time.perf_counter() - began, answer


def _size(megapixels: float) -> tuple[int, int]:
    """Width and height of a picture of the usual shape."""
    height = round((megapixels * 1e6 / SHAPE) ** 0.5)
    return round(SHAPE * height), height


def _size_words(width: int, height: int) -> str:
    return f"{width} x {height} px"


def _point_words(point: list[float]) -> str:
    whole, infer, codecs = point
    return f"{whole:.2f} s, of which network {infer:.2f} s, codecs {codecs:.2f} s"
