"""Random holes: kinds, shares, seeds and polarity."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from inpaint.errors import BadData, MaskEmpty, MaskFull
from inpaint.mask import bounding_box
from training import holes
from training.recipe import Holes


@pytest.fixture
def mask_file(tmp_path):
    """White (the hole) in the left quarter."""
    pixels = np.zeros((40, 40), np.uint8)
    pixels[:, :10] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def teapot(tmp_path):
    """A silhouette, white on black, with a handle and a spout: it has no symmetry."""
    canvas = Image.new("L", (120, 90))
    pen = ImageDraw.Draw(canvas)
    pen.ellipse((30, 25, 85, 80), fill=255)
    pen.arc((10, 35, 45, 70), 80, 280, fill=255, width=5)
    pen.polygon([(75, 45), (110, 20), (114, 26), (80, 65)], fill=255)
    canvas.save(tmp_path / "teapot.png")
    return tmp_path / "teapot.png"


NONE = dict.fromkeys(holes.KINDS, 0.0)
ONLY = {kind: Holes(**NONE | {kind: 1.0}) for kind in holes.KINDS}


@pytest.mark.parametrize("kind", holes.KINDS)
def test_the_same_seed_draws_the_same_hole(kind, mask_file, teapot):
    one, two, other = (
        [
            holes.draw(ONLY[kind], 64, np.random.default_rng(seed), [mask_file], [teapot])
            for seed in seeds
        ]
        for seeds in (range(8), range(8), range(100, 108))
    )
    assert np.array_equal(one, two)
    assert np.array_equal(one, other) == (kind == "centre")


@pytest.mark.parametrize("kind", holes.KINDS)
@pytest.mark.parametrize("size", [16, 48])
def test_a_hole_is_a_bool_square_with_some_of_both(kind, size, mask_file, teapot):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        hole = holes.draw(ONLY[kind], size, rng, [mask_file], [teapot])
        assert hole.dtype == np.bool_
        assert hole.shape == (size, size)
        assert 0 < hole.mean() < 1


# Sums of 40 holes of 64 px that were drawn before there were centre, blocks, silhouettes and noise,
# and of what the generator gives next.
@pytest.mark.parametrize(
    ("wanted", "sums"),
    [
        (ONLY["strokes"], (2802727255, 3069136623)),
        (ONLY["boxes"], (2953883526, 796520965)),
        (ONLY["files"], (2415691191, 3316599123)),
        (
            Holes(strokes=1, boxes=1, files=0.5, smallest=0.05, largest=0.4),
            (24780605, 2686333860),
        ),
    ],
    ids=["strokes", "boxes", "files", "all three"],
)
def test_recipes_without_the_newer_kinds_draw_what_they_always_drew(wanted, sums, mask_file):
    rng = np.random.default_rng(7)
    drawn = np.stack([holes.draw(wanted, 64, rng, [mask_file]) for _ in range(40)])
    assert (zlib.crc32(np.packbits(drawn).tobytes()), rng.integers(1 << 32)) == sums


def test_kinds_are_drawn_as_often_as_they_weigh():
    both = Holes(**NONE | {"centre": 1, "noise": 3}, centre_side=0.25)
    rng = np.random.default_rng(0)
    shares = [holes.draw(both, 64, rng).mean() for _ in range(400)]
    assert shares.count(1 / 16) == pytest.approx(100, abs=25)
    assert all(share == 1 / 16 or 0.19 < share < 0.31 for share in shares)


def test_the_share_of_the_hole_stays_within_the_recipe():
    wanted = Holes(smallest=0.1, largest=0.3)
    shares = [holes.draw(wanted, 64, np.random.default_rng(seed)).mean() for seed in range(150)]
    assert min(shares) >= 0.1
    assert max(shares) <= 0.3


def test_shares_of_the_default_holes_reach_every_part_of_their_range():
    shares = [holes.draw(Holes(), 64, np.random.default_rng(seed)).mean() for seed in range(300)]
    counts, _ = np.histogram(shares, bins=[0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert counts.sum() == 300
    assert counts.min() >= 5


def test_boxes_are_rectangles_within_the_square():
    rng = np.random.default_rng(0)
    hole = holes.boxes(64, rng)
    rows, columns = hole.any(1), hole.any(0)
    assert rows.sum() >= 8
    assert columns.sum() >= 8


@pytest.mark.parametrize(
    ("size", "side", "box"),
    [
        (128, 0.5, (32, 32, 96, 96)),
        (128, 0.4375, (36, 36, 92, 92)),  # the 56 pixels that an overlap of 4 leaves of 64
        (227, 0.5, (57, 57, 170, 170)),
        (64, 0.001, (31, 31, 33, 33)),
        (64, 0.999, (1, 1, 63, 63)),
    ],
)
def test_the_centre_is_a_square_exactly_in_the_middle(size, side, box):
    hole = holes.centre(size, side)
    assert bounding_box(hole) == box
    assert hole.sum() == (box[2] - box[0]) ** 2
    assert np.array_equal(hole, hole[::-1, ::-1])


def test_blocks_are_several_squares_that_cover_up_to_a_quarter():
    drawn = [holes.blocks(128, np.random.default_rng(seed)) for seed in range(200)]
    shares = [hole.mean() for hole in drawn]
    assert max(shares) <= 0.25
    assert max(shares) > 0.24
    assert min(shares) >= 1 / 64  # one of the smallest
    assert np.mean([number_of_parts(hole) > 1 for hole in drawn[:30]]) > 0.5
    for hole in drawn:
        assert edges_are_straight(hole, 16)


def edges_are_straight(hole, length):
    """Whether every row has runs of at least `length`: no square is smaller."""
    padded = np.pad(hole, ((0, 0), (1, 1))).astype(np.int8)
    starts, ends = (np.argwhere(np.diff(padded, axis=1) == sign) for sign in (1, -1))
    return (ends - starts)[:, 1].min() >= length


def number_of_parts(hole):
    """Count connected parts by flooding."""
    left = {tuple(place) for place in np.argwhere(hole).tolist()}
    count = 0
    while left:
        count += 1
        front = [left.pop()]
        while front:
            row, column = front.pop()
            for near in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if near in left:
                    left.remove(near)
                    front.append(near)
    return count


@pytest.mark.parametrize("kind", ["silhouettes", "noise"])
@pytest.mark.parametrize("size", [64, 128])
def test_random_regions_cover_about_a_quarter(kind, size, teapot):
    rng = np.random.default_rng(3)
    shares = [holes.draw(ONLY[kind], size, rng, [], [teapot]).mean() for _ in range(150)]
    assert min(shares) >= 0.2 - 1 / size**2
    assert max(shares) <= 0.3 + 1 / size**2
    assert max(shares) - min(shares) > 0.07


def test_noise_is_made_of_blotches_of_many_pixels():
    drawn = [holes.noise(128, np.random.default_rng(seed)) for seed in range(20)]
    changes = np.mean([(hole[:, 1:] != hole[:, :-1]).mean() for hole in drawn])
    assert 0.01 < changes < 0.06  # in pixels drawn one by one it would be 0.375
    assert np.mean([number_of_parts(hole) for hole in drawn]) > 3


def test_random_regions_lie_anywhere(teapot):
    for kind in ("silhouettes", "noise"):
        rng = np.random.default_rng(5)
        drawn = [holes.draw(ONLY[kind], 48, rng, [], [teapot]) for _ in range(300)]
        often = np.mean(drawn, axis=0)
        assert often.min() > 0.08, kind
        assert often.max() < 0.45, kind


def test_an_object_is_turned_and_bent_and_keeps_its_area(teapot):
    """Far from the border its area is the wanted one, and no two look alike."""
    shape = holes._object(teapot)
    assert shape.any(1).all()
    assert shape.any(0).all()  # cut out
    areas, seen = [], set()
    for seed in range(300):
        hole = holes._deformed(shape, 0.05, 128, np.random.default_rng(seed))
        top, left, bottom, right = bounding_box(hole)
        if min(top, left, 128 - bottom, 128 - right) > 0:
            areas.append(hole.mean())
            seen.add(hole[top:bottom, left:right].tobytes())
    assert len(areas) > 50
    assert np.mean(areas) == pytest.approx(0.05, rel=0.05)
    assert 0.002 < np.std(areas) < 0.015
    assert len(seen) == len(areas)


def test_a_silhouette_of_any_size_is_drawn_alike(tmp_path, teapot):
    with Image.open(teapot) as picture:
        picture.resize((960, 720), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    for path in (teapot, tmp_path / "large.png"):
        assert max(holes._object(path).shape) == holes.OBJECT


def test_white_in_a_mask_file_is_the_hole(mask_file):
    found = {
        tuple(map(tuple, np.argwhere(hole)[[0, -1]]))
        for hole in (holes.from_file(mask_file, 20, np.random.default_rng(s)) for s in range(40))
    }
    left, right = ((0, 0), (19, 4)), ((0, 15), (19, 19))
    top, bottom = ((0, 0), (4, 19)), ((15, 0), (19, 19))
    assert found == {left, right, top, bottom}


@pytest.mark.parametrize(
    ("kind", "option"), [("files", "--masks"), ("silhouettes", "--silhouettes")]
)
def test_files_that_are_wanted_and_not_given_are_asked_for(kind, option):
    with pytest.raises(BadData, match=f"their folder with {option}"):
        holes.draw(ONLY[kind], 32, np.random.default_rng(0))


def test_a_recipe_without_any_kind_is_refused():
    with pytest.raises(BadData, match=r"draws no holes: strokes, .* noise all weigh 0"):
        holes.draw(Holes(**NONE), 32, np.random.default_rng(0))


def shade(level):
    """Black with a square of `level`."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:24, 8:24] = level
    return as_png(pixels)


def as_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["files", "silhouettes"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (shade(0), "No pixel of the mask is white"),
        (as_png(np.full((32, 32), 255, np.uint8)), "Every pixel of the mask is white"),
        (b"no picture", "cannot be used"),
        (shade(255)[:-40], "cut off or damaged"),
        (shade(140), r"25% of it is gray \(64 to 191 of 255\)"),
        (shade(100), r"25% of it is gray"),
        (as_png(np.arange(1024, dtype=np.uint8).reshape(32, 32)), r"50% of it is gray"),
        (None, "cannot be read: No such file"),
    ],
    ids=["black", "white", "text", "cut", "gray", "dark", "gradient", "missing"],
)
def test_a_file_that_is_no_mask_is_refused_by_its_name(kind, data, reason, tmp_path):
    path = tmp_path / "bad.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BadData, match=rf"bad\.png.*{reason}"):
        holes.draw(ONLY[kind], 20, np.random.default_rng(0), [path], [path])


def test_read_mask_file_leaves_empty_and_full_masks_to_its_caller(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(shade(0))
    with pytest.raises(MaskEmpty):
        holes.read_mask_file(path, 16)
    path.write_bytes(as_png(np.full((32, 32), 255, np.uint8)))
    with pytest.raises(MaskFull):
        holes.read_mask_file(path, 16)
    path.write_bytes(shade(255))
    assert bounding_box(holes.read_mask_file(path, 16)) == (4, 4, 12, 12)


def irregular(size):
    """A mask like those of Liu et al., arXiv:1804.07723: many strokes."""
    rng = np.random.default_rng(11)
    hole = np.logical_or.reduce([holes.strokes(size, rng) for _ in range(2)])
    return Image.fromarray(hole.astype(np.uint8) * 255)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_the_slight_grays_of_jpeg_are_no_grays(quality, tmp_path):
    picture = irregular(512)
    picture.save(tmp_path / "mask.jpg", quality=quality)
    hole = holes.read_mask_file(tmp_path / "mask.jpg", 512)
    assert (hole != (np.asarray(picture) > 0)).mean() < 0.005


def test_the_soft_edges_of_a_scaled_mask_are_no_grays(tmp_path):
    picture = irregular(512)
    picture.resize((128, 128), Image.Resampling.BILINEAR).save(tmp_path / "mask.png")
    hole = holes.read_mask_file(tmp_path / "mask.png", 512)
    assert (hole != (np.asarray(picture) > 0)).mean() < 0.03


def test_a_feathered_mask_is_refused(tmp_path):
    irregular(512).filter(ImageFilter.GaussianBlur(24)).save(tmp_path / "soft.png")
    with pytest.raises(BadData, match=r"soft\.png.* is gray"):
        holes.read_mask_file(tmp_path / "soft.png", 128)


def test_a_mask_of_transparency_is_read_by_its_transparency(tmp_path):
    """The colour says nothing then; half transparent pixels are grays."""
    pixels = np.full((32, 32, 4), 255, np.uint8)
    pixels[:16, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    assert bounding_box(holes.read_mask_file(tmp_path / "clear.png", 32)) == (0, 0, 16, 32)
    pixels[:16, :, 3] = 120
    Image.fromarray(pixels).save(tmp_path / "half.png")
    with pytest.raises(BadData, match=r"half\.png.*50% of it is gray"):
        holes.read_mask_file(tmp_path / "half.png", 32)


def test_a_hole_from_a_file_that_is_kept_cannot_be_changed(mask_file):
    """It would change every later hole from this file."""
    hole = holes.from_file(mask_file, 20, np.random.default_rng(0))
    with pytest.raises(ValueError, match="read-only"):
        hole[0, 0] = True
