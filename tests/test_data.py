"""Photographs from folders and tar shards, crops, and batches that depend on the step alone."""

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inpaint.errors import BadData
from training import data
from training.recipe import Crops, Holes, Recipe, Stage


def picture(seed, size=(60, 44)):
    """A smooth drawn photograph, uint8 (H,W,3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(seed, format="PNG", **options):
    file = io.BytesIO()
    picture(seed).save(file, format, **options)
    return file.getvalue()


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def recipe():
    return Recipe(
        name="tiny",
        architecture="aotgan-compact",
        license="CC0-1.0",
        seed=3,
        crops=Crops(smallest=16),
        stages=(
            Stage(steps=3, size=32, batch=4, learning_rate=1e-3),
            Stage(steps=3, size=48, batch=2, learning_rate=1e-3),
        ),
    )


def test_folders_and_shards_are_read_alike(tmp_path):
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    (folder / "deeper").mkdir(parents=True)
    shards.mkdir()
    (folder / "a.png").write_bytes(encoded(1))
    (folder / "deeper" / "b.png").write_bytes(encoded(2))
    (folder / "MANIFEST.csv").write_text("not,an,image\n")
    write_shard(shards / "0.tar", {"a.png": encoded(1), "MANIFEST.csv": b"no", "b.png": encoded(2)})
    loose = data.read([folder], longest=100)
    packed = data.read([shards], longest=100)
    single = data.read([shards / "0.tar"], longest=100)
    for found in (loose, packed, single):
        assert [np.array_equal(p, picture(n)) for n, p in enumerate(found.pixels, 1)] == [True] * 2
        assert found.skipped == []


def test_several_sources_are_read_one_after_the_other(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(encoded(1, "JPEG"))
    write_shard(tmp_path / "b.tar", {"y.png": encoded(2)})
    counts = []
    found = data.read([tmp_path / "a", tmp_path / "b.tar"], longest=100, progress=counts.append)
    assert len(found.pixels) == 2
    assert counts == [1, 2]


def test_a_corrupt_file_is_skipped_and_named(tmp_path):
    (tmp_path / "good.png").write_bytes(encoded(1))
    (tmp_path / "short.jpg").write_bytes(encoded(2, "JPEG")[:400])
    (tmp_path / "text.png").write_text("this is no picture")
    write_shard(tmp_path / "s.tar", {"cut.png": encoded(3)[:200], "fine.png": encoded(4)})
    found = data.read([tmp_path], longest=100)
    assert len(found.pixels) == 2
    skipped = dict(line.split(": ", 1) for line in found.skipped)
    assert list(skipped) == ["s.tar:cut.png", "short.jpg", "text.png"]
    assert "cut off or damaged" in skipped["short.jpg"]


def test_orientation_is_applied_and_gray_becomes_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    (tmp_path / "turned.png").write_bytes(encoded(1, exif=exif))
    picture(2).convert("L").save(tmp_path / "x_gray.png")
    turned, gray = data.read([tmp_path], longest=100).pixels
    assert np.array_equal(turned, np.rot90(np.asarray(picture(1)), -1))
    assert gray.shape == (44, 60, 3)


def test_a_large_photograph_is_scaled_down_once(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(1))
    found = data.read([tmp_path], longest=22)
    assert found.pixels[0].shape == (22, 30, 3)


@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_a_folder_of_masks_without_images_is_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert data.files_in(None) == ()
    with pytest.raises(BadData, match=f"{folder} holds no image files"):
        data.files_in(tmp_path / folder)


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(BadData, match="no readable photographs in"):
        data.read([tmp_path], longest=100)


def test_a_source_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(BadData, match="nowhere does not exist"):
        data.read([tmp_path / "nowhere"], longest=100)


@pytest.mark.parametrize("size", [800, 2000])  # no tar file, and one that was cut
def test_a_shard_that_cannot_be_read_is_refused_by_name(size, tmp_path):
    write_shard(tmp_path / "s.tar", {"a.png": encoded(1), "b.png": encoded(2)})
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(b"nonsense" * 100 if size == 800 else whole[:size])
    with pytest.raises(BadData, match=r"^shard .*s.tar cannot be read: [^\n]+$"):
        data.read([tmp_path], longest=100)


def test_a_folder_named_like_a_photograph_is_none_and_a_lost_file_is_skipped(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "a.png").write_bytes(encoded(1))
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
    found = data.read([tmp_path], longest=100)
    assert found.names == ["folder.png/a.png"]
    assert found.skipped == ["lost.png: No such file or directory"]


def test_a_crop_is_a_square_of_the_wanted_size_out_of_the_photograph(recipe):
    pixels = np.asarray(picture(5))
    plain = recipe.model_copy(update={"crops": Crops(smallest=16, flip=0, gray=0, colour=0)})
    for seed in range(20):
        square = data.crop(pixels, 44, plain, np.random.default_rng(seed))
        assert square.shape == (44, 44, 3)
        assert square.dtype == np.uint8
    whole = plain.model_copy(update={"crops": Crops(smallest=44, flip=0, gray=0, colour=0)})
    left = next(
        n for n in range(17) if np.array_equal(square_of(pixels, whole), pixels[:, n : n + 44])
    )
    assert 0 <= left <= 16


def square_of(pixels, recipe):
    return data.crop(pixels, 44, recipe, np.random.default_rng(11))


def test_crops_are_mirrored_and_turned_gray_as_asked(recipe):
    pixels = np.asarray(picture(5, size=(44, 44)))
    base = {"smallest": 44, "colour": 0}
    mirrored = recipe.model_copy(update={"crops": Crops(**base, flip=1, gray=0)})
    gray = recipe.model_copy(update={"crops": Crops(**base, flip=0, gray=1)})
    assert np.array_equal(square_of(pixels, mirrored), pixels[:, ::-1])
    assert np.ptp(square_of(pixels, gray), axis=2).max() == 0


def test_sepia_is_brown_of_the_same_light_and_leaves_black_and_white(recipe):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 256, 1).repeat(3, 2)
    brown = Crops(smallest=256, colour=0, flip=0, gray=0, sepia=1)
    one, other = (
        data.crop(ramp, 256, recipe.model_copy(update={"crops": brown}), np.random.default_rng(n))
        for n in range(2)
    )
    red, green, blue = one[:, 0].astype(int).T
    assert np.array_equal(green, ramp[:, 0, 1])
    assert (red[1:-1] >= green[1:-1]).all()
    assert (blue[1:-1] <= green[1:-1]).all()
    assert red[128] > 128 + 5 > 128 - 10 > blue[128]
    assert one[[0, -1], 0].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert not np.array_equal(one, other)  # not all of them are equally brown


@pytest.fixture
def material():
    return data.Material([np.asarray(picture(seed)) for seed in range(5)])


def test_a_batch_depends_on_the_seed_and_the_step_alone(recipe, material):
    one = data.make_batch(material, recipe, 2)
    data.make_batch(material, recipe, 0)
    again = data.make_batch(material, recipe, 2)
    assert np.array_equal(one.pixels, again.pixels)
    assert np.array_equal(one.holes, again.holes)
    other = data.make_batch(material, recipe.model_copy(update={"seed": 4}), 2)
    assert not np.array_equal(one.pixels, other.pixels)


def test_a_batch_has_the_size_of_its_stage(recipe, material):
    first, second = (data.make_batch(material, recipe, step) for step in (2, 3))
    assert (first.pixels.shape, first.holes.shape) == ((4, 32, 32, 3), (4, 32, 32))
    assert (second.pixels.shape, second.holes.shape) == ((2, 48, 48, 3), (2, 48, 48))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_together_see_the_batch_of_one(recipe, material, ranks):
    labelled = replace(material, labels=np.array([0, -1, 1, -1, -1]))
    whole = data.make_batch(labelled, recipe, 1)
    for rank in range(ranks):
        share = data.make_batch(labelled, recipe, 1, rank=rank, ranks=ranks)
        assert np.array_equal(share.pixels, whole.pixels[rank::ranks])
        assert np.array_equal(share.holes, whole.holes[rank::ranks])
        assert np.array_equal(share.labels, whole.labels[rank::ranks])


def test_without_labels_every_square_is_unlabelled(recipe, material):
    batch = data.make_batch(material, recipe, 0)
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == [-1] * 4


def test_a_share_of_each_batch_is_drawn_from_the_labelled_photographs(recipe, material):
    flat = [np.full((40, 40, 3), 50 * number, np.uint8) for number in range(5)]
    plain = {"crops": Crops(smallest=16, flip=0, gray=0, colour=0), "labelled": 0.5}
    labels = np.array([7, -1, -1, 3, -1])
    seen = []
    for step in range(3):
        batch = data.make_batch(
            data.Material(flat, labels=labels), recipe.model_copy(update=plain), step
        )
        numbers = batch.pixels[:, 0, 0, 0] // 50
        assert np.array_equal(batch.labels, labels[numbers])
        assert (batch.labels[:2] >= 0).all()
        seen += batch.labels[2:].tolist()
    assert -1 in seen


def test_the_loader_hands_out_the_batches_in_order_from_any_step(recipe, material):
    loader = data.Loader(material, recipe, 1, rank=1, ranks=2)
    found = [loader.next() for _ in range(1, recipe.steps)]
    loader.close()
    for step, batch in enumerate(found, start=1):
        expected = data.make_batch(material, recipe, step, rank=1, ranks=2)
        assert np.array_equal(batch.pixels, expected.pixels)
        assert np.array_equal(batch.holes, expected.holes)


def test_the_loader_raises_where_its_batch_is_awaited(recipe, material):
    wants_files = recipe.model_copy(update={"holes": Holes(strokes=0, boxes=0, files=1)})
    loader = data.Loader(material, wants_files, 0)
    with pytest.raises(BadData, match="--masks"):
        loader.next()
    loader.close()


def test_a_loader_that_nobody_reads_can_be_closed(recipe, material):
    many = recipe.model_copy(
        update={"stages": (recipe.stages[0].model_copy(update={"steps": 99}),)}
    )
    loader = data.Loader(material, many, 0)
    loader.next()
    loader.close()
    assert not loader._thread.is_alive()
