"""`inpaint bench album-chaos`: an album with broken files among the good, while parts die.

In: photographs, or none, and how many scans are to be made of them. Out: figures; exit 1 unless
every good file is in the archive once, restored or as it was, and every broken one is named.

Scans in four formats and three folders, half of them sent as one zip and half one by one. The
worker is killed (`kill -9`) while scans arrive and again while they are restored, the gateway and
the Redis server once.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from io import BytesIO, StringIO
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from zipfile import ZipFile

import typer
from PIL import Image

from inpaint.errors import BadData, InpaintError
from inpaint.pairs import SUFFIXES

from .album_client import ENDED, Server
from .bench import show
from .bench_album import DETECTOR, LOOK_SECONDS
from .bench_effort import PATIENT, SHIPPED, Figures, Say
from .bench_pictures import jpeg, photograph, png
from .temporary import GATEWAY, SERVER, WORKER, Parts, apart

FORMATS = (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp"))
FOLDERS = 3
BASES = 12  # photographs that are drawn
SIDES = (480, 360)
LEASE_SECONDS = 5  # what a dead worker held is begun again after it
WHOLE_EVERY = 5  # of so many scans one is a photograph without damage

Files = list[tuple[str, bytes]]  # name and content


def album_chaos(
    *,
    count: Annotated[int, typer.Option(help="Good scans.", min=12)] = 300,
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs; without it some are drawn.", file_okay=False),
    ] = None,
    model: Annotated[str, typer.Option(help="That fills.")] = SHIPPED,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Kill parts while an album is restored; every good file must be there once."""

    def run(say: Say) -> Figures:
        with TemporaryDirectory(prefix="inpaint-chaos-") as folder:
            good = _scans(Path(folder), photos, count)
        broken = _broken(good)
        say(f"{len(good)} scans and {len(broken)} broken files")
        variables = PATIENT | {"INPAINT_MODELS": f"{model},{DETECTOR}"}
        variables |= {"INPAINT_LEASE_SECONDS": str(LEASE_SECONDS)}
        with apart(model, variables=variables) as parts:
            return _through(parts, good, broken, say)

    show(run, json_file)


def _scans(folder: Path, photos: Path | None, count: int) -> Files:
    """Return damaged scans, and some photographs without damage."""
    sources = folder / "photos"
    sources.mkdir()
    if photos is None:
        for number in range(BASES):
            (sources / f"{number:02}.jpg").write_bytes(jpeg(photograph(*SIDES, seed=number)))
    else:
        for path in photos.iterdir():
            if path.suffix.lower() in SUFFIXES:
                (sources / path.name).symlink_to(path.absolute())
    whole = sorted(sources.iterdir())
    if not whole:
        raise BadData(f"there is no photograph in {photos}")
    scans = folder / "scans"
    command = [sys.executable, "-m", "training.scans", str(sources), str(scans), str(count)]
    subprocess.run(command, check=True)
    files = []
    for number, scan in enumerate(sorted(scans.iterdir())):
        turn, undamaged = divmod(number, WHOLE_EVERY)
        source = scan if undamaged else whole[turn % len(whole)]
        kind, suffix = FORMATS[number % len(FORMATS)]
        name = f"box {number % FOLDERS}/scan {number:03}.{suffix}"
        files.append((name, _converted(source, kind, number)))
    return files


def _converted(source: Path, kind: str, number: int) -> bytes:
    """Return a picture in another format; the number keeps two of one photograph apart."""
    with Image.open(source) as image, BytesIO() as out:
        image.convert("RGB").crop((number % 7, 0, *image.size)).save(out, kind)
        return out.getvalue()


def _broken(good: Files) -> Files:
    """Return ten files that cannot be restored."""
    scan = {name.rpartition(".")[2]: data for name, data in good}
    changed = scan["png"][:200] + bytes(255 - value for value in scan["png"][200:])
    return [
        ("broken/cut.jpg", scan["jpg"][: len(scan["jpg"]) // 3]),
        ("broken/start.jpg", scan["jpg"][:20]),
        ("broken/cut.png", scan["png"][: len(scan["png"]) // 2]),
        ("broken/changed.png", changed),
        ("broken/cut.tif", scan["tif"][: len(scan["tif"]) // 2]),
        ("broken/empty.jpg", b""),
        ("broken/letter.png", b"Dear all, enclosed the photographs."),
        ("broken/noise.jpg", os.urandom(5000)),
        ("broken/small.png", png(Image.new("RGB", (4, 4)))),
        ("broken/box.zip", b"PK\x05\x06" + bytes(18)),
    ]


def _through(parts: Parts, good: Files, broken: Files, say: Say) -> Figures:
    """Send the album while parts die, and judge what comes back."""
    files = list(good)
    for number, file in enumerate(broken):  # among the good ones
        files.insert((2 * number + 1) * len(good) // (2 * len(broken)), file)
    half = len(files) // 2
    first = BytesIO()
    with ZipFile(first, "w") as archive:
        for name, data in files[:half]:
            archive.writestr(name, data)
    began = time.monotonic()
    server = Server(parts.url, say)
    form = {"auto_mask": DETECTOR, "expect": str(len(files))}
    given = {"archive": ("box.zip", first.getvalue())}
    answer = server.ask("POST", "/albums", data=form, files=given)
    path = answer.headers["location"]
    # by how many were sent one by one
    deaths = {half // 4: GATEWAY, half // 2: WORKER, 3 * half // 4: SERVER}
    for number, (name, data) in enumerate(files[half:]):
        if part := deaths.get(number):
            _restart(parts, part, say)
        server.ask("POST", f"{path}/items", files={"image": (name, data)})
    say(f"sent in {time.monotonic() - began:.0f} s")
    killed = False
    while (state := server.ask("GET", path).json())["status"] not in ENDED:
        done = state["counts"]["succeeded"] + state["counts"]["failed"]
        if not killed and done > 2 * len(files) // 3:
            _restart(parts, WORKER, say)
            killed = True
        time.sleep(LOOK_SECONDS)
    seconds = time.monotonic() - began
    say(f"{state['status']}: {state['counts']}")
    data = server.ask("GET", f"{path}/archive").content
    server.close()
    if unzip := which("unzip"):
        box = parts.folder / "album.zip"
        box.write_bytes(data)
        subprocess.run([unzip, "-tq", box], check=True)
    figures = _judged(data, good, broken)
    figures |= {"gateway_kills": 1, "redis_kills": 1, "worker_kills": 1 + killed}
    return {"status": str(state["status"]), **figures, "album_seconds": seconds}


def _restart(parts: Parts, name: str, say: Say) -> None:
    parts.kill(name)
    parts.start(name)
    say(f"{name} killed, and started again")


def _judged(data: bytes, good: Files, broken: Files) -> Figures:
    """Compare an archive with what was sent.

    Raises:
        InpaintError: what is wrong with it.
    """
    sent = dict(good)
    with ZipFile(BytesIO(data)) as archive:
        if member := archive.testzip():
            raise InpaintError(f"{member} is broken in the archive.")
        found = {name: archive.read(name) for name in archive.namelist()}
        times = Counter(archive.namelist())
    report: dict[str, Any] = json.loads(found.pop("report.json"))
    table = list(csv.DictReader(StringIO(found.pop("report.csv").decode("utf-8-sig"))))
    statuses = {item["name"]: item["status"] for item in report["items"]}
    wanted = dict.fromkeys(sent, "succeeded") | dict.fromkeys(dict(broken), "failed")
    if wrong := sorted(set(found) ^ set(sent)) + [name for name in times if times[name] > 1]:
        raise InpaintError(f"Missing, unasked or doubled in the archive: {', '.join(wrong)}.")
    if statuses != wanted or not len(table) == len(report["items"]) == len(wanted):
        wrong = sorted(name for name in wanted if statuses.get(name) != wanted[name])
        raise InpaintError(f"The report is wrong about {', '.join(wrong) or 'how many'}.")
    for name, content in found.items():
        with Image.open(BytesIO(content)) as now, Image.open(BytesIO(sent[name])) as before:
            if (now.size, now.format) != (before.size, before.format):
                raise InpaintError(f"{name} came back as {now.format} of {now.size}.")
    return {
        "good": len(sent),
        "broken": len(broken),
        "unchanged": sum(content == sent[name] for name, content in found.items()),
        "codes": ", ".join(sorted({item["code"] for item in report["items"] if item["code"]})),
        "archive_mb": len(data) / 1e6,
    }
