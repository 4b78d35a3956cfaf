import os
import resource
import signal
import time
from contextlib import contextmanager

import pytest

from inpaint.blobs import FolderBlobs
from inpaint.errors import InputGone, StartFailed, StorageUnavailable


@pytest.fixture
def blobs(tmp_path):
    return FolderBlobs(tmp_path / "blobs")


@contextmanager
def no_file_over(size):
    """Let the kernel refuse longer files, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_picture_that_finds_no_room_is_refused_and_leaves_nothing(blobs):
    with no_file_over(4096), pytest.raises(StorageUnavailable, match="cannot be stored: File too"):
        blobs.put(bytes(10_000))
    assert not list(blobs.folder.iterdir())


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_a_data_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(StartFailed, match=f"{tmp_path / place} cannot be written to: "):
        FolderBlobs(tmp_path / place)


def test_a_folder_without_permission_to_write_is_refused_at_start(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(StartFailed, match="Permission denied"):
        FolderBlobs(tmp_path)


def test_what_was_put_is_got_back(blobs):
    key = blobs.put(b"some bytes")
    assert blobs.get(key) == b"some bytes"
    assert FolderBlobs(blobs.folder).get(key) == b"some bytes"


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
