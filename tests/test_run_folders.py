"""`inpaint run` and `inpaint mask` on folders: found damage, interruptions, kills, `--resume`."""

import hashlib
import json
import os
import pty
import resource
import signal
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

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
from inpaint.journal import NAME, Journal


@pytest.fixture
def here(tmp_path, monkeypatch, white_detector):
    """A folder `scans` with photographs, one of them without damage, and other files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INPAINT_MODEL", "telea")
    monkeypatch.setenv("INPAINT_CHECKPOINTS", str(white_detector))
    write_scans(tmp_path)
    (tmp_path / "scans" / "notes.txt").write_text("of the album")
    (tmp_path / "scans" / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "scans" / ".trash").mkdir()
    (tmp_path / "scans" / ".trash" / "old.png").write_bytes(b"no picture")
    (tmp_path / "scans" / "coming.png.part").write_bytes(b"no picture")
    return tmp_path


def test_damage_is_found_and_filled_and_folders_and_formats_stay(here, capsys):
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--report", "report.json") == 0
    assert written() == NAMES
    result = samples("out/b.png")
    changed = (result != drawn(0)).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed[SCRATCH].mean() > 0.9
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 77, 58, 64)  # 2 more
    assert Path("out/whole.png").read_bytes() == Path("scans/whole.png").read_bytes()
    facts = {each["image"]: each for each in report()["images"]}
    order = ["a.TIF", "b.png", "whole.png", "1931/c.webp", "1931/summer/a.jpg"]
    assert list(facts) == [f"scans/{name}" for name in order]
    assert facts["scans/whole.png"]["unchanged"]
    assert facts["scans/whole.png"]["coverage"] == 0
    assert facts["scans/b.png"]["mask_source"] == "scratches"
    said = capsys.readouterr()
    assert "5 of 5 pictures restored" in said.out
    assert "1 without damage" in said.out
    assert "1 .txt" in said.err


def test_masks_that_were_proposed_and_changed_are_used_as_they_are(here):
    assert run("mask", "scans", "-o", "masks") == 0
    assert written("masks") == [str(Path(name).with_suffix(".png")) for name in NAMES]
    with Image.open("masks/1931/c.png") as mask:
        assert mask.mode == "L"
        hole = np.asarray(mask)
    assert set(np.unique(hole)) == {0, 255}
    assert hole[SCRATCH].all()
    assert not hole[:, 80:].any()
    assert not samples("masks/whole.png").any()
    changed = samples("masks/b.png").copy()
    changed[:48] = 0  # a person spares the upper half
    Image.fromarray(changed).save("masks/b.png")
    assert run("run", "scans", "-o", "out", "--mask", "masks", "--report", "report.json") == 0
    assert written() == NAMES
    result = samples("out/b.png")
    assert np.array_equal(result[:48], drawn(0)[:48])
    assert (result[SCRATCH][28:] < 255).any(axis=2).all()
    assert Path("out/whole.png").read_bytes() == Path("scans/whole.png").read_bytes()
    assert [each["unchanged"] for each in report()["images"]] == [False, False, True, False, False]


def test_an_empty_mask_for_all_leaves_all_as_they_are_and_is_refused_for_one_file(here, capsys):
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    assert run("run", "scans", "-o", "out", "--mask", "black.png") == 0
    for name in NAMES:
        assert Path("out", name).read_bytes() == Path("scans", name).read_bytes()
    assert "5 without damage" in capsys.readouterr().out
    assert run("run", "scans/b.png", "-o", "one.png", "--mask", "black.png") == 1
    assert "mask-empty" in capsys.readouterr().err


def test_masks_grow_and_are_more_sensitive_as_asked(here, monkeypatch):
    monkeypatch.setenv("INPAINT_PRECISION", "fp32")
    assert run("mask", "scans/b.png", "-o", "plain.png") == 0
    assert run("mask", "scans/b.png", "-o", "grown.png", "--mask-grow", 3) == 0
    assert np.count_nonzero(samples("plain.png")) == 56 * 3
    assert np.count_nonzero(samples("grown.png")) == 62 * 9
    gray = drawn(0)
    gray[SCRATCH] = 239  # a probability of 0.37
    Image.fromarray(gray).save("gray.png")
    for sensitivity, found in ((0.0, False), (1.0, True)):
        name = f"{sensitivity}.png"
        assert run("mask", "gray.png", "-o", name, "--sensitivity", sensitivity) == 0
        assert samples(name).any() == found


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "scans", "-o", "out", "--sensitivity", "0.5"),
        ("run", "scans", "-o", "out", "--mask", "auto", "--sensitivity", "2"),
        ("mask", "scans", "-o", "masks", "--detector", "nonesuch"),
        ("mask", "scans", "-o", "masks", "--detector", "none"),
        ("mask", "scans/b.png", "-o", "mask.jpg"),
        ("mask", "scans", "scans/a.TIF", "-o", "masks"),
        ("mask", "absent", "-o", "masks"),
    ],
)
def test_wrong_usage_of_found_damage_writes_nothing(here, arguments):
    assert run(*arguments) == 2
    assert sorted(path.name for path in here.iterdir()) == ["scans"]


def test_a_journal_that_finds_no_room_ends_the_command_in_order(here):
    (here / "small").mkdir()
    for number in range(20):
        Image.new("L", (16, 16), number).save(f"small/{number:02}.png")
    hole = np.zeros((16, 16), np.uint8)
    hole[4:8, 4:8] = 255
    Image.fromarray(hole).save("hole.png")
    command = ("run", "small", "-o", "out", "--mask", "hole.png")
    room = 4096  # bytes of a file: enough for the pictures, too few for a journal with all lines
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
    with start(*command, "--keep-going", preexec_fn=limit) as process:
        said, told = process.communicate(timeout=60)
    assert process.returncode == 1, told
    assert "Traceback" not in told
    assert told.count("No space left on device. (storage-unavailable) The same command") == 1
    lines = Path("out", NAME).read_text().splitlines()
    done = [json.loads(line)["output"] for line in lines if line]
    assert 0 < len(done) < 20
    assert written() == sorted(done)
    assert f"{len(done)} of 20 pictures restored" in said
    assert run(*command, "--resume", "--report", "report.json") == 0
    assert report()["kept"] == len(done)


def no_room(output):
    """Let the kernel answer that the disk is full where this file is to be written."""
    digest = hashlib.sha256(output.name.encode()).hexdigest()[: disk.DIGITS]
    output.with_name(f".inpaint-{digest}.part").symlink_to("/dev/full")


def test_a_full_disk_ends_the_command_at_once_and_resume_goes_on(here, capsys):
    (here / "small").mkdir()
    (here / "out").mkdir()
    for number in range(40):
        Image.new("L", (16, 16), number).save(f"small/{number:02}.png")
        if number >= 3:
            no_room(here / "out" / f"{number:02}.png")
    Image.fromarray(np.eye(16, dtype=bool)).save("hole.png")
    command = ("run", "small", "-o", "out", "--mask", "hole.png", "--report", "report.json")
    assert run(*command, "--keep-going") == 1
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "--resume goes on" in said
    numbers = report()
    assert numbers["failed"] == 0
    assert numbers["succeeded"] == len(written()) <= 3
    untried = list(Path("out").glob(".*.part"))
    assert untried
    for part in untried:
        part.unlink()
    assert run(*command, "--resume") == 0
    assert report()["succeeded"] == 40


def test_results_and_masks_below_the_folder_are_no_pictures_of_it(here):
    assert run("mask", "scans", "-o", "scans/masks") == 0
    assert run("run", "scans", "-o", "scans/out", "--mask", "scans/masks") == 0
    assert written("scans/out") == NAMES


def test_resume_does_what_is_new_or_changed_and_nothing_else(here, capsys):
    assert run("run", "scans", "-o", "out", "--mask", "auto") == 0
    before = stamps()
    assert run("run", "scans", "-o", "out", "--mask", "auto") == 1
    assert "--resume" in capsys.readouterr().err
    Image.fromarray(drawn(20)).save("scans/new.png")
    Image.fromarray(drawn(21)).save("scans/b.png")
    Path("out/a.TIF").unlink()
    arguments = [
        "run",
        "scans",
        "-o",
        "out",
        "--mask",
        "auto",
        "--resume",
        "--report",
        "report.json",
    ]
    assert run(*arguments) == 0
    after = stamps()
    assert {name for name in after if after[name] != before.get(name)} == {
        "a.TIF",
        "b.png",
        "new.png",
    }
    assert (report()["succeeded"], report()["kept"]) == (6, 3)
    assert "6 of 6 pictures restored" in (said := capsys.readouterr().out)
    assert "3 done by earlier runs" in said
    facts = {each["image"]: each for each in report()["images"]}
    assert facts["scans/1931/c.webp"]["kept"]
    assert facts["scans/1931/c.webp"]["coverage"] > 0  # told from the journal
    assert run(*arguments) == 0
    assert stamps() == after


def test_resume_runs_again_with_other_options(here):
    assert run("run", "scans", "-o", "out", "--mask", "auto") == 0
    before = stamps()
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--mask-grow", 4, "--resume") == 0
    assert not set(before.values()) & set(stamps().values())


def test_resume_leaves_what_it_has_not_written(here, capsys):
    assert run("run", "scans", "-o", "out", "--mask", "auto") == 0
    Path("out/b.png").write_bytes(b"precious")
    Path("scans/b.png").touch()
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--resume") == 1
    assert "out/b.png is there already" in capsys.readouterr().err
    assert Path("out/b.png").read_bytes() == b"precious"
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--resume", "--overwrite") == 0
    assert samples("out/b.png").shape == (HEIGHT, WIDTH, 3)


def test_a_line_of_the_journal_that_was_cut_off_costs_one_picture(here):
    assert run("run", "scans", "-o", "out", "--mask", "auto") == 0
    book, before = Path("out") / NAME, stamps()
    book.write_bytes(book.read_bytes()[:-40])
    last = json.loads(book.read_text().splitlines()[-2])["output"]
    cut = (
        {*NAMES} - {json.loads(line)["output"] for line in book.read_text().split("\n")[1:-1]}
    ).pop()
    assert cut != last
    Path("out", cut).unlink()
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--resume") == 0
    after = stamps()
    assert {name for name in after if after[name] != before[name]} == {cut}
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--resume") == 0
    assert stamps() == after


@pytest.fixture
def many(here):
    """A folder of photographs that take a while; the options that restore it."""
    return ["run", *write_many(here, range(16))]


def test_an_interrupted_run_writes_its_report_and_resume_goes_on(many, eventually):
    process = start(*many, "--report", "report.json")
    eventually(lambda: len(written()) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in said
    found = report()
    assert found["not_run"] > 0
    done = [each["output"] for each in found["images"] if each["status"] == "succeeded"]
    assert sorted(done) == [f"out/{name}" for name in written()]
    before = stamps()
    assert run(*many, "--resume", "--report", "report.json") == 0
    assert (report()["succeeded"], report()["kept"]) == (16, len(before))
    assert before.items() <= stamps().items()


def test_a_killed_run_leaves_whole_results_and_resume_goes_on(many, eventually, capsys):
    process = start(*many)
    eventually(lambda: len(written()) >= 2)
    process.kill()
    process.communicate()
    before = stamps()
    for name in before:
        assert samples(Path("out") / name).shape == (4 * HEIGHT, 4 * WIDTH, 3)
    assert run(*many, "--resume") == 0
    assert len(written()) == 16
    kept = [name for name, when in stamps().items() if before.get(name) == when]
    assert len(kept) >= len(before) - 1  # one may have got its name just before its end
    assert f"{len(kept)} done by earlier runs" in capsys.readouterr().out
    assert not list(Path("out").glob("*.part")) + list(Path("out").glob(".*.part"))


def test_one_folder_takes_one_command_at_a_time(here, capsys):
    Path("out").mkdir()
    with closing(Journal(Path("out"))) as other:
        other.begin()
        assert run("run", "scans", "-o", "out", "--mask", "auto", "--resume") == 1
    assert "Another command is writing to out" in capsys.readouterr().err
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--resume") == 0


def test_names_do_nothing_to_a_terminal(here, capsys):
    (here / "scans").joinpath("red\x1b[31m\n.png").write_bytes(b"no picture")
    (here / "scans").joinpath("notes.\x1b[2J").write_text("of the album")
    (here / "scans").joinpath(os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--keep-going") == 3
    assert run("run", "no\x1b[31mfile", "-o", "out") == 2
    assert run("run", "scans", "-o", "out", "--mask", "auto", "--device", "cpu") == 1
    assert run("run", "scans/red\x1b[31m\n.png", "-o", "out", "--mask", "auto") == 1
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said
    for name in (r"red\x1b[31m\n.png", r"1 .\x1b[2j", r"\udcff.png", r"no\x1b[31mfile"):
        assert name in said


def test_a_terminal_is_shown_a_bar_and_anything_else_lines(here, capsys):
    assert run("run", "scans", "-o", "plain", "--mask", "auto") == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("5/5 scans/")
    main_end, end = pty.openpty()
    process = start("run", "scans", "-o", "shown", "--mask", "auto", stdout=end, stderr=end)
    os.close(end)
    said = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(main_end, 4096):
            said += part
    os.close(main_end)
    assert process.wait(timeout=60) == 0
    text = said.decode()
    assert "5/5" in text
    assert "0:00:0" in text  # the time left
