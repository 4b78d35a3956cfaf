import os
import time

import pytest

from inpaint.blobs import Blobs
from inpaint.errors import InputGone


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path / "blobs")


def test_what_was_put_is_got_back(blobs):
    key = blobs.put(b"some bytes")
    assert blobs.get(key) == b"some bytes"
    assert Blobs(blobs.folder).get(key) == b"some bytes"


def test_equal_bytes_get_keys_of_their_own(blobs):
    assert blobs.put(b"same") != blobs.put(b"same")


def test_a_deleted_blob_is_gone_and_may_be_deleted_again(blobs):
    key = blobs.put(b"x")
    blobs.delete(key)
    blobs.delete(key)
    with pytest.raises(InputGone):
        blobs.get(key)


@pytest.mark.parametrize(
    "key", ["", "../secret", "/etc/passwd", "A" * 32, "0" * 31, "0" * 32 + "\n"]
)
def test_what_is_not_a_key_never_reaches_the_disk(blobs, key):
    (blobs.folder.parent / "secret").write_bytes(b"secret")
    with pytest.raises(ValueError, match="not a blob key"):
        blobs.get(key)
    with pytest.raises(ValueError, match="not a blob key"):
        blobs.delete(key)
    assert (blobs.folder.parent / "secret").exists()


def test_the_sweep_deletes_what_is_too_old_and_nothing_else(blobs):
    old, young = blobs.put(b"old"), blobs.put(b"young")
    half_written = blobs.folder / ("0" * 32 + ".part")
    half_written.write_bytes(b"half")
    an_hour_ago = time.time() - 3600
    for path in (blobs.folder / old, half_written):
        os.utime(path, (an_hour_ago, an_hour_ago))
    assert blobs.sweep(1800) == 2
    assert blobs.get(young) == b"young"
    assert [path.name for path in blobs.folder.iterdir()] == [young]


def test_nothing_unfinished_is_left_beside_a_blob(blobs):
    key = blobs.put(b"x")
    assert [path.name for path in blobs.folder.iterdir()] == [key]
