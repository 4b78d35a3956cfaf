"""Every shipped model through the whole service: small and large pictures, specks and chasms.

The pixels under a hole are magenta, which no model draws: what is left of it was not filled.
"""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inpaint.settings import Settings
from models.checkpoint import read_header
from worker.zoo import CLASSICAL, find

FOUND = {name: (path, read_header(path)) for name, path in find(None).items()}
SHIPPED = {name: path for name, (path, header) in FOUND.items() if header.detection is None}
DETECTORS = {name: path for name, (path, header) in FOUND.items() if header.detection}
MAGENTA = (255, 0, 255)
SECONDS = 60  # that a request waits: the machine may be busy


@pytest.fixture(scope="module")
def service(server, start_service, tmp_path_factory):
    """A service with all the models of a fresh clone."""
    settings = Settings(data=tmp_path_factory.mktemp("served"), redis_url=server.url(4))
    with start_service(settings, worker=True, INPAINT_MODELS="") as running:
        yield running


def photograph(height, width):
    """Waves of all lengths, so that a fill is not trivial and a PNG not large."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [rows * columns / 400, rows / 7 + columns / 11, (columns - rows) / 29]
    return np.stack([110 + 100 * np.sin(wave) for wave in waves], axis=-1).astype(np.uint8)


def speck(height, width):
    """One pixel."""
    hole = np.zeros((height, width), bool)
    hole[height // 3, width // 2] = True
    return hole


def chasm(height, width):
    """80 % of the picture: all but a strip on the left."""
    hole = np.ones((height, width), bool)
    hole[:, : width // 5] = False
    return hole


def damage(height, width):
    """A scratch from edge to edge, a block in a corner, a blot."""
    mask = Image.new("1", (width, height))
    draw = ImageDraw.Draw(mask)
    draw.line([(0, height // 2), (width, height // 3)], fill=1, width=3)
    draw.rectangle([0, 0, width // 8, height // 8], fill=1)
    draw.ellipse([width // 2, height // 2, 3 * width // 4, 3 * height // 4], fill=1)
    return np.asarray(mask)


def assert_filled(service, encoded, name, size, shape):
    """Post a picture of `size` (height, width) with a hole, and look at every pixel."""
    photo, hole = photograph(*size), shape(*size)
    photo[hole] = MAGENTA

    answer = service.post(
        encoded(photo, compress_level=1),
        encoded(hole),
        data={"model": name},
        headers={"Prefer": f"wait={SECONDS}"},
        timeout=2 * SECONDS,
    )

    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Model"] == name
    result = np.asarray(Image.open(BytesIO(answer.content)))
    assert result.shape == photo.shape
    assert np.array_equal(result[~hole], photo[~hole])
    assert (result[hole] != MAGENTA).any(axis=-1).all()


@pytest.mark.slow
def test_every_shipped_model_is_listed_with_its_terms(service):
    info = service.client.get("/info").json()
    listed = {model["name"]: model for model in info["models"]}
    detectors = {model["name"]: model for model in info["detectors"]}

    assert set(listed) == {*SHIPPED, *CLASSICAL}
    assert set(detectors) == set(DETECTORS)
    for name, path in (SHIPPED | DETECTORS).items():
        found = (listed | detectors)[name]
        assert found["license"] == read_header(path).license
        assert found["digest"].startswith("sha256:")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED, *CLASSICAL])
@pytest.mark.parametrize(
    ("size", "shape"),
    [((64, 64), speck), ((64, 90), chasm), ((217, 333), damage), ((500, 400), chasm)],
)
def test_a_model_fills_the_hole_and_nothing_else(service, encoded, name, size, shape):
    assert_filled(service, encoded, name, size, shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHIPPED, *CLASSICAL])
def test_a_model_fills_a_picture_2000_pixels_wide(service, encoded, name):
    assert_filled(service, encoded, name, (700, 2000), damage)
