import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from redis import Redis

from inpaint.blobs import FolderBlobs, Patient, RedisBlobs, open_blobs
from inpaint.errors import InputGone, StartFailed, StorageUnavailable
from inpaint.settings import Settings

DATABASE = 3  # of the shared server


@pytest.fixture
def folder(tmp_path):
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def store(server):
    """A client of the empty database that `RedisBlobs` uses."""
    with Redis.from_url(server.url(DATABASE)) as client:
        client.flushdb()
        yield client


@pytest.fixture(params=["folder", "redis", "patient"])
def blobs(request, folder):
    """Each store, for what must hold for all."""
    if request.param == "folder":
        return folder
    if request.param == "patient":
        return Patient(folder, 0.5)
    request.getfixturevalue("store")
    return RedisBlobs(request.getfixturevalue("server").url(DATABASE), 60)


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


# what holds for every store


@pytest.mark.parametrize("data", [b"", b"some bytes", bytes(range(256)) * 20_000], ids=len)
def test_what_was_put_is_got_back(blobs, data):
    assert blobs.get(blobs.put(data)) == data


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
def test_what_is_not_a_key_never_reaches_the_store(blobs, key):
    with pytest.raises(ValueError, match="not a blob key"):
        blobs.get(key)
    with pytest.raises(ValueError, match="not a blob key"):
        blobs.delete(key)


def test_a_sweep_leaves_what_is_young(blobs):
    key = blobs.put(b"young")
    assert blobs.sweep(1800) == 0
    assert blobs.get(key) == b"young"


def test_threads_share_a_store(blobs):
    def there_and_back(number):
        data = bytes([number]) * 50_000
        key = blobs.put(data)
        return blobs.get(key) == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(there_and_back, range(200)))


# a folder


def test_a_picture_that_finds_no_room_is_refused_and_leaves_nothing(folder):
    with no_file_over(4096), pytest.raises(StorageUnavailable, match="cannot be used: File too"):
        folder.put(bytes(10_000))
    assert not list(folder.folder.iterdir())


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


def test_another_process_finds_the_blob(folder):
    assert FolderBlobs(folder.folder).get(folder.put(b"some bytes")) == b"some bytes"


def test_a_folder_that_is_away_is_an_outage_and_not_the_end_of_its_blobs(folder):
    key = folder.put(b"x")
    elsewhere = folder.folder.rename(folder.folder.with_name("elsewhere"))

    with pytest.raises(StorageUnavailable):
        folder.get(key)
    with pytest.raises(StorageUnavailable):
        folder.put(b"y")
    folder.delete(key)
    assert folder.sweep(0) == 0

    elsewhere.rename(folder.folder)
    assert folder.get(key) == b"x"


def test_the_sweep_deletes_what_is_too_old_and_nothing_else(folder):
    old, young = folder.put(b"old"), folder.put(b"young")
    an_hour_ago = time.time() - 3600
    os.utime(folder.folder / old, (an_hour_ago, an_hour_ago))
    (folder.folder / "lost+found").mkdir()
    os.utime(folder.folder / "lost+found", (an_hour_ago, an_hour_ago))

    assert folder.sweep(1800) == 1

    assert folder.get(young) == b"young"
    assert {path.name for path in folder.folder.iterdir()} == {young, "lost+found"}


def test_two_sweepers_delete_each_blob_once(folder):
    hour_ago = time.time() - 3600
    for _ in range(500):
        os.utime(folder.folder / folder.put(b"old"), (hour_ago, hour_ago))
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(folder.sweep, [1800.0] * 4)) == 500
    assert not list(folder.folder.iterdir())


# a Redis of their own


def test_redis_forgets_a_blob_by_itself(server, store, eventually):
    blobs = RedisBlobs(server.url(DATABASE), 1)
    key = blobs.put(b"x")

    eventually(lambda: not store.dbsize())

    with pytest.raises(InputGone, match="send it again"):
        blobs.get(key)


def test_a_full_server_refuses_and_keeps_nothing_half_written(own_server):
    blobs = RedisBlobs(own_server.url(), 60)
    kept = blobs.put(b"kept")
    with Redis.from_url(own_server.url()) as client:
        client.config_set("maxmemory", 1)

        with pytest.raises(StorageUnavailable, match="try again later"):
            blobs.put(bytes(100_000))

        assert client.dbsize() == 1
        assert blobs.get(kept) == b"kept"  # what is there is still handed out
        client.config_set("maxmemory", 0)
    assert blobs.get(blobs.put(b"room again")) == b"room again"


def test_a_server_that_is_away_is_named_and_its_return_is_noticed(own_server):
    blobs = RedisBlobs(own_server.url(), 60)
    key = blobs.put(b"x")
    own_server.kill()

    with pytest.raises(StorageUnavailable):
        blobs.put(b"y")
    with pytest.raises(StorageUnavailable):  # and not gone
        blobs.get(key)
    blobs.delete(key)

    own_server.start()
    assert blobs.get(key) == b"x"


def test_a_patient_store_waits_for_its_server(own_server):
    blobs = Patient(RedisBlobs(own_server.url(), 60), 60)
    key = blobs.put(b"x")
    own_server.kill()
    with ThreadPoolExecutor(2) as pool:
        got, put = pool.submit(blobs.get, key), pool.submit(blobs.put, b"y")
        time.sleep(0.5)
        assert not got.done()
        assert not put.done()
        own_server.start()
        assert got.result(30) == b"x"
        assert blobs.get(put.result(30)) == b"y"


def test_patience_ends(own_server):
    own_server.kill()
    with pytest.raises(StorageUnavailable):
        Patient(RedisBlobs(own_server.url(), 60), 0.3).get("0" * 32)


def test_patience_is_not_for_what_is_gone(folder):
    with pytest.raises(InputGone):
        Patient(folder, 3600).get("0" * 32)


# which store, and whether it will do


def opened(queue, store, tmp_path, **more):
    return open_blobs(Settings(data=tmp_path, redis_url=queue, blobs=store, **more))


def test_without_a_setting_blobs_are_files_of_the_data_folder(tmp_path):
    key = open_blobs(Settings(data=tmp_path)).put(b"x")
    assert (tmp_path / "blobs" / key).read_bytes() == b"x"


def test_a_store_keeps_blobs_for_as_long_as_jobs_are_kept(server, store, tmp_path):
    blobs = opened(
        server.url(0), server.url(DATABASE), tmp_path, result_ttl_seconds=100, job_timeout_seconds=7
    )
    key = blobs.put(b"x")
    assert 110 < store.ttl(f"inpaint:blob:{key}") <= 114
    assert not list(tmp_path.iterdir())


def test_patience_can_be_asked_for(own_server, server, tmp_path):
    settings = Settings(data=tmp_path, redis_url=server.url(), blobs=own_server.url())
    blobs = open_blobs(settings, patience=60)
    own_server.kill()
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(blobs.put, b"x")
        own_server.start()
        assert blobs.get(put.result(30)) == b"x"


def test_the_queues_own_database_is_refused(server, tmp_path):
    with pytest.raises(StartFailed, match="queue's own database"):
        opened(server.url(0), server.url(0), tmp_path)


def test_a_store_that_is_away_at_start_is_used_when_it_comes(own_server, server, tmp_path, caplog):
    own_server.kill()
    blobs = opened(server.url(0), own_server.url(), tmp_path)
    assert "not checked" in caplog.text
    own_server.start()
    assert blobs.get(blobs.put(b"x")) == b"x"
