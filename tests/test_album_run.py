"""`inpaint album`: real folders, a real service, clients that are killed, servers that go."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from folders import (
    HEIGHT,
    NAMES,
    SCRATCH,
    WIDTH,
    drawn,
    report,
    run,
    samples,
    stamps,
    start,
    write_many,
    write_scans,
    written,
)
from inpaint import disk
from inpaint.settings import Settings
from service.album_state import NAME

MOST = 20  # photographs of an album of this service
COUNT = 16  # photographs of `many`
SEEDS = itertools.count(100)


@pytest.fixture(scope="module")
def serving(server, white_detector, tmp_path_factory, start_service):
    """A service that fills with `telea` and finds with the detector of the tests."""
    settings = Settings(data=tmp_path_factory.mktemp("albums"), redis_url=server.url(3))
    variables = {
        "INPAINT_MODELS": "telea,scratches",
        "INPAINT_CHECKPOINTS": str(white_detector),
        "INPAINT_ALBUM_FILES": str(MOST),
    }
    with start_service(settings, worker=True, **variables) as running:
        yield running
        running.gateway.terminate()  # a test has started another one
        running.gateway.wait()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder `scans` with photographs, one of them without damage."""
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path)
    return tmp_path


@pytest.fixture
def many(here):
    """A folder of photographs that take a while; the options that restore it."""
    seeds = itertools.islice(SEEDS, COUNT)  # of their own: a server knows what it has done
    return ["album", *write_many(here, seeds)]


def album_of(serving, folder="out"):
    """The last album of a folder as the server has it."""
    lines = [json.loads(line) for line in (Path(folder) / NAME).read_text().splitlines() if line]
    (*_, last) = [line["album"] for line in lines if "album" in line]
    return serving.client.get(f"/albums/{last}").json()


def test_an_album_comes_back_in_the_same_folders_and_formats(here, serving, capsys):
    options = ["-o", "out", "--server", serving.url, "--report", "report.json"]
    assert run("album", "scans", *options, "--mask", "auto") == 0
    assert written() == NAMES
    changed = (samples("out/b.png") != drawn(0)).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed[SCRATCH].mean() > 0.9
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 77, 58, 64)
    assert Path("out/whole.png").read_bytes() == Path("scans/whole.png").read_bytes()
    facts = {each["image"]: each for each in report()["images"]}
    assert facts["scans/whole.png"]["unchanged"]
    assert facts["scans/1931/c.webp"]["mask_source"] == "scratches"
    assert facts["scans/1931/c.webp"]["format"] == "webp"
    assert report()["albums"] == [album_of(serving)["id"]]
    assert album_of(serving)["counts"]["succeeded"] == 5
    assert "5 of 5 pictures restored" in capsys.readouterr().out


def test_masks_are_fetched_changed_and_sent_by_their_names(here, serving):
    server = ["--server", serving.url]
    assert run("album", "scans", "-o", "masks", "--mask-only", *server) == 0
    assert written("masks") == [str(Path(name).with_suffix(".png")) for name in NAMES]
    assert np.array_equal(np.unique(samples("masks/b.png")), [0, 255])
    changed = samples("masks/b.png").copy()
    changed[:48] = 0
    Image.fromarray(changed).save("masks/b.png")
    assert run("album", "scans", "-o", "faded", "--mask", "masks", "--tone", "fade", *server) == 0
    assert written("faded") == NAMES
    assert not np.array_equal(samples("faded/whole.png"), samples("scans/whole.png"))
    assert run("album", "scans", "-o", "out", "--mask", "masks", *server) == 0
    assert written() == NAMES
    result = samples("out/b.png")
    assert np.array_equal(result[:48], drawn(0)[:48])
    assert (result[SCRATCH][28:] < 255).any(axis=2).all()
    assert Path("out/whole.png").read_bytes() == Path("scans/whole.png").read_bytes()


def test_fills_are_refined_as_asked(here, serving):
    for refine in ("auto", "none", "full"):
        options = ["-o", refine, "--refine", refine, "--server", serving.url, "--mask", "auto"]
        assert run("album", "scans/b.png", *options) == 0
    assert np.array_equal(samples("auto/b.png"), samples("none/b.png"))  # of telea
    changed = (samples("full/b.png") != samples("none/b.png")).any(axis=2)
    columns = np.flatnonzero(changed.any(axis=0))
    assert 58 <= columns.min() <= columns.max() <= 64  # the hole's


def test_bad_photographs_fail_alone_when_told_to_go_on(here, serving, capsys):
    Path("scans/bad.png").write_bytes(b"no picture")
    Path("scans/cut.png").write_bytes(Path("scans/b.png").read_bytes()[:-900])
    Path("scans/pipe.png").symlink_to("/dev/zero")
    arguments = ["album", "scans", "-o", "out", "--mask", "auto", "--server", serving.url]
    assert run(*arguments, "--keep-going", "--report", "report.json") == 3
    assert written() == NAMES
    codes = {
        each["image"]: each["problem"]["code"] for each in report()["images"] if "problem" in each
    }
    assert codes == {
        "scans/bad.png": "unsupported-image-type",
        "scans/cut.png": "image-unreadable",
        "scans/pipe.png": "image-unreadable",
    }
    said = capsys.readouterr()
    assert "5 of 8 pictures restored" in said.out
    assert "scans/bad.png: The image is text" in said.err
    Image.fromarray(drawn(5)).save("scans/bad.png")  # mended
    Path("scans/cut.png").unlink()
    Path("scans/pipe.png").unlink()
    before = stamps()
    assert run(*arguments, "--resume") == 0
    assert written() == sorted([*NAMES, "bad.png"])
    assert before.items() <= stamps().items()


def test_the_first_that_fails_ends_the_album_unless_told_to_go_on(many, serving, capsys):
    Path("many/00.png").write_bytes(b"no picture")
    assert run(*many, "--server", serving.url, "--report", "report.json") == 1
    assert report()["failed"] == 1
    assert report()["not_run"] > 0
    assert "unsupported-image-type" in (said := capsys.readouterr().err)
    assert "the album is canceled" in said
    assert album_of(serving)["counts"]["queued"] == 0
    Image.fromarray(np.tile(drawn(0), (4, 4, 1))).save("many/00.png")
    assert run(*many, "--resume", "--report", "report.json") == 0  # the server is remembered
    assert report()["succeeded"] == COUNT


def test_a_killed_client_goes_on_with_the_same_album_and_sends_nothing_twice(
    many, serving, eventually, capsys
):
    process = start(*many, "--server", serving.url)
    eventually(lambda: len(written()) >= 2)
    process.kill()
    process.communicate()
    album, before = album_of(serving)["id"], stamps()
    for name in before:
        assert samples(Path("out") / name).shape == (4 * HEIGHT, 4 * WIDTH, 3)
    assert run(*many, "--resume") == 0
    assert len(written()) == COUNT
    assert album_of(serving)["id"] == album
    assert album_of(serving)["counts"]["total"] == COUNT
    kept = [name for name, when in stamps().items() if before.get(name) == when]
    assert len(kept) >= len(before) - 1  # one may have got its name just before the end
    assert f"{len(kept)} done by earlier runs" in capsys.readouterr().out
    after = stamps()
    assert run(*many, "--resume") == 0
    assert stamps() == after


def test_ctrl_c_leaves_the_album_running_and_says_how_to_go_on(many, serving, eventually, capsys):
    process = start(*many, "--server", serving.url, "--report", "report.json")
    eventually(lambda: len(written()) >= 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    assert "--cancel" in said
    assert report()["not_run"] > 0
    Image.fromarray(np.tile(drawn(97), (4, 4, 1))).save("many/new.png")
    Image.fromarray(np.tile(drawn(98), (4, 4, 1))).save("many/05.png")
    assert run(*many, "--resume", "--report", "report.json") == 0
    assert report()["succeeded"] == COUNT + 1
    result, hole = samples("out/05.png"), samples("stripes.png") > 0
    assert np.array_equal(result[~hole], np.tile(drawn(98), (4, 4, 1))[~hole])


def test_an_album_can_be_canceled(many, serving, eventually, capsys):
    process = start(*many, "--server", serving.url)
    eventually(lambda: len(written()) >= 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert run(*many, "--cancel") == 0
    assert album_of(serving)["id"] in capsys.readouterr().out
    counts = album_of(serving)["counts"]
    assert counts["queued"] == counts["running"] == 0
    assert run("album", "many", "-o", "other", "--cancel") == 1
    assert "No album was begun" in capsys.readouterr().err


def test_an_album_that_is_deleted_is_said_to_be_gone_and_resume_makes_another(
    many, serving, eventually
):
    command = [*many, "--server", serving.url, "--keep-going"]
    with start(*command) as client:
        eventually(lambda: (Path("out") / NAME).is_file() and album_of(serving)["counts"]["total"])
        gone = album_of(serving)
        assert serving.client.delete(gone["links"]["self"]).status_code == 204
        _, said = client.communicate(timeout=60)
    assert client.returncode == 1
    assert f"Album {gone['id']} is gone: somebody has deleted it. (not-found)" in said
    assert run(*command, "--resume") == 0
    assert len(written()) == COUNT
    assert album_of(serving)["id"] != gone["id"]


def test_a_full_disk_ends_the_client_and_the_album_goes_on(many, serving, capsys):
    command = [*many, "--server", serving.url, "--keep-going"]
    Path("out").mkdir()
    for number in range(1, COUNT):  # the kernel answers that there is no room for them
        digest = hashlib.sha256(f"{number:02}.png".encode()).hexdigest()[: disk.DIGITS]
        Path("out", f".inpaint-{digest}.part").symlink_to("/dev/full")
    assert run(*command) == 1
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "--resume goes on" in said
    assert album_of(serving)["counts"]["canceled"] == 0
    begun = album_of(serving)["id"]
    for part in Path("out").glob(".*.part"):
        part.unlink()
    assert run(*command, "--resume") == 0
    assert len(written()) == COUNT
    assert album_of(serving)["id"] == begun


def test_more_photographs_than_an_album_may_have_become_two(here, serving):
    Image.fromarray(np.tile(np.arange(WIDTH) < 9, (HEIGHT, 1))).save("mask.png")
    for number in range(MOST):
        Image.fromarray(drawn(number)).save(here / "scans" / f"{number}.png")
    options = ["--mask", "mask.png", "--server", serving.url, "--report", "report.json"]
    assert run("album", "scans", "-o", "out", *options) == 0
    assert len(written()) == MOST + len(NAMES)
    assert len(report()["albums"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("scans", "-o", "out", "--mask-only", "--mask", "scans"),
        ("scans", "-o", "out", "--mask-only", "--format", "jpeg"),
        ("scans", "-o", "out", "--mask-only", "--refine", "full"),
        ("scans", "-o", "out", "--sensitivity", "0.5"),
        ("scans/b.png", "-o", "out.png"),
        ("absent", "-o", "out"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_writes_nothing(here, arguments):
    assert run("album", *arguments) == 2
    assert sorted(path.name for path in here.iterdir()) == ["scans"]


def test_a_server_that_is_not_there_is_said_at_once(here, capsys):
    for url in ("http://127.0.0.1:1", "nonsense", "http://["):
        assert run("album", "scans", "-o", "out", "--server", url) == 1
        assert url in capsys.readouterr().err
    assert not Path("out").exists()


def test_what_the_server_refuses_is_said_and_nothing_is_sent(here, serving, capsys):
    options = ["--server", serving.url, "--mask", "auto"]
    assert run("album", "scans", "-o", "out", "--model", "nonesuch", *options) == 1
    assert "unknown-model" in capsys.readouterr().err
    assert written() == []


def test_a_gateway_that_is_killed_and_started_again_costs_nothing(many, serving, eventually):
    process = start(*many, "--server", serving.url, "--report", "report.json")
    eventually(lambda: len(written()) >= 1)
    serving.gateway.kill()
    serving.gateway.wait()
    outside = {name: value for name, value in os.environ.items() if name[:8] != "INPAINT_"}
    settings = {
        "INPAINT_DATA": str(serving.settings.data),
        "INPAINT_PORT": str(httpx.URL(serving.url).port),
        "INPAINT_MODEL": "telea",
        "REDIS_URL": serving.settings.redis,
    }
    serving.gateway = subprocess.Popen(serving.gateway.args, env=outside | settings)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(written()) == COUNT
    assert report()["not_run"] == 0
