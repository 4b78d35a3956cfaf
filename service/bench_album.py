"""`inpaint bench album`: a box of damaged scans through the service, as its owner would send it.

In: how many scans. Out: pictures per second beside detector, generator and refinement alone, one
after the other; what requests wait meanwhile, what Redis holds; and the same files through
IOPaint's folder run, where that is installed. What each figure means stands in docs/benchmarks.md.
"""

import json
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from zipfile import ZipFile

import httpx
import numpy as np
import psutil
import typer
from PIL import Image
from redis import Redis

from inpaint import jobs
from inpaint.errors import InpaintError, StartFailed
from inpaint.settings import Settings

from .bench import show
from .bench_client import Load, load, post
from .bench_effort import PATIENT, SHIPPED, Figures, Say
from .bench_pictures import box, jpeg, photograph, png
from .temporary import WORKER, Parts, apart

DETECTOR = "scratches"
CLASSICAL = "telea"  # what IOPaint's `cv2` is
BASES = 12  # photographs that differ
SAMPLE = 12  # scans through the bare loop, before the album and after it
CLIENTS = 2  # who send requests beside the album
SIDE = 512  # pixels, of their pictures
PEER_SCANS = 40  # through IOPaint
LOOK_SECONDS = 0.5
FINAL = ("succeeded", "partial", "failed", "canceled")


@dataclass(frozen=True)
class Pile:
    """Scans on the disk, and the masks of their true damage."""

    scans: Path
    masks: Path

    @property
    def files(self) -> list[Path]:
        """The scans."""
        return sorted(self.scans.iterdir())


def album(
    *,
    count: Annotated[int, typer.Option(help="Scans.", min=2)] = 200,
    megapixels: Annotated[
        tuple[float, float], typer.Option(help="Of the smallest scan and of the largest.")
    ] = (2.0, 6.0),
    seconds: Annotated[float, typer.Option(help="For which requests are timed.")] = 15,
    iopaint: Annotated[
        Path | None, typer.Option(help="IOPaint's program, to compare with.", exists=True)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write figures here.")
    ] = None,
) -> None:
    """Restore an album of damaged scans, found and filled."""

    def run(say: Say) -> Figures:
        with TemporaryDirectory(prefix="inpaint-bench-") as folder:
            pile = _draw(Path(folder), count, megapixels, say)
            figures = _restored(pile, seconds, say)
            if iopaint is not None:
                figures |= _beside_iopaint(pile, iopaint, Path(folder), say)
        return {"scans": count, **figures}

    show(run, json_file)


def _draw(folder: Path, count: int, megapixels: tuple[float, float], say: Say) -> Pile:
    """Draw photographs and have damage rendered onto them, by a program that may import cv2."""
    bases = folder / "bases"
    least, most = megapixels
    bases.mkdir()
    for number in range(min(BASES, count)):
        height = round((1e6 * (least + (most - least) * number / (BASES - 1)) * 3 / 4) ** 0.5)
        picture = photograph(round(height * 4 / 3), height, seed=number, grain=2.0)
        (bases / f"{number:02}.jpg").write_bytes(jpeg(picture))
    scans = folder / "scans"
    command = [sys.executable, "-m", "training.scans", str(bases), str(scans), str(count)]
    subprocess.run(command, check=True)
    pile = Pile(scans, scans.with_name("scans-masks"))
    say(f"{count} scans drawn, {_bytes(pile.scans) / 1e6:.0f} MB")
    return pile


def _restored(pile: Pile, seconds: float, say: Say) -> Figures:
    """The album, with detection, and what it is compared with."""
    # as an album would have them: one of each size that was drawn
    sample = pile.files[: min(SAMPLE, len(pile.files))]
    variables = PATIENT | {"INPAINT_MODELS": f"{SHIPPED},{DETECTOR}"}
    request = post(
        "/inpaint", {"image": jpeg(photograph(SIDE, SIDE)), "mask": png(box(SIDE, SIDE, 100))}
    )
    with (
        apart(SHIPPED, variables=variables) as parts,
        httpx.Client(base_url=parts.url, timeout=120, trust_env=False) as client,
        closing(jobs.connect(Settings(redis_url=parts.redis_url))) as redis,
    ):
        idle = load(parts.url, [request], clients=CLIENTS, seconds=seconds, warm=3)
        alone = [_alone(parts, sample)]
        say(f"detector and generator alone: {alone[0]:.3f} s a scan")
        run = _Run(parts, client, redis, len(pile.files))
        run.send(pile.files, {"auto_mask": DETECTOR}, say)
        beside = run.interrupted(request, seconds, say)
        run.finish(say)
        alone.append(_alone(parts, sample))
        say(f"detector and generator alone: {alone[1]:.3f} s a scan")
        checked = _check(client, run.address, pile.files)
        items = client.get(f"{run.address}/items", params={"limit": 500}).json()["items"]
        megapixels = np.mean([_megapixels(file) for file in sample])
        worker = psutil.Process(parts.processes[WORKER].pid).memory_info().rss
    found = sum(not item.get("unchanged", False) for item in items)
    idle_ms, beside_ms = idle.wait_ms(95), beside.wait_ms(95)
    return {
        "album_ratio": run.rate * sum(alone) / len(alone),
        "album_images_per_s": run.rate,
        "album_seconds": run.seconds,
        "album_megapixels_mean": float(megapixels),
        "alone_seconds_per_image": sum(alone) / len(alone),
        "with_damage_found": found,
        "interactive_p95_ms_idle": idle_ms,
        "interactive_p95_ms_beside": beside_ms,
        "interactive_ratio": beside_ms / idle_ms,
        "redis_mb_while_running": [[share, used / 1e6] for share, used in run.memory],
        "redis_kb_per_scan": (run.memory[-1][1] - run.memory[0][1]) / 1e3 / len(pile.files),
        "worker_mb": worker / 1e6,
        "archive_mb": checked / 1e6,
    }


class _Run:
    """An album under way, watched by polling."""

    def __init__(self, parts: Parts, client: httpx.Client, redis: Redis, count: int) -> None:
        self._parts, self._client, self._redis, self._count = parts, client, redis, count
        self.address = ""
        self.memory: list[tuple[float, int]] = [(0.0, self._used())]
        self.seconds = 0.0  # without those in which others were served too
        self._began = 0.0
        self._counted = 0  # done in those seconds

    @property
    def rate(self) -> float:
        """Scans a second."""
        return self._counted / self.seconds

    def send(self, files: list[Path], fields: dict[str, str], say: Say) -> None:
        """Open an album and send its scans one by one."""
        form: list[Any] = [(name, (None, text)) for name, text in fields.items()]
        form.append(("expect", (None, str(len(files)))))
        self._began = time.monotonic()
        answer = self._client.post("/albums", files=form).raise_for_status()
        self.address = answer.headers["location"]
        for file in files:
            with file.open("rb") as data:
                self._client.post(
                    f"{self.address}/items", files={"image": (file.name, data)}
                ).raise_for_status()
        say(f"sent in {time.monotonic() - self._began:.1f} s")

    def interrupted(self, request: bytes, seconds: float, say: Say) -> Load:
        """Half way through, time requests of others; what is done meanwhile counts as nothing."""
        self._until(self._count // 2, say)
        self.seconds += time.monotonic() - self._began
        self._counted += self._done()
        beside = load(self._parts.url, [request], clients=CLIENTS, seconds=seconds, warm=3)
        self._began = time.monotonic()
        self._counted -= self._done()
        return beside

    def finish(self, say: Say) -> None:
        """Wait for the end."""
        self._until(self._count, say)
        self.seconds += time.monotonic() - self._began
        self._counted += self._done()
        say(f"done: {self.rate:.2f} scans/s")

    def _until(self, count: int, say: Say) -> None:
        while True:
            done = self._done()
            share = done / self._count
            if share - self.memory[-1][0] >= 0.1:
                self.memory.append((share, self._used()))
                say(f"{share:.0%} done, Redis holds {self.memory[-1][1] / 1e6:.1f} MB")
            if done >= count:
                return
            time.sleep(LOOK_SECONDS)

    def _done(self) -> int:
        album = self._client.get(self.address).raise_for_status().json()
        counts = album["counts"]
        if failed := counts.get("failed", 0):
            raise InpaintError(f"{failed} scans of the album failed")
        return int(counts.get("succeeded", 0))

    def _used(self) -> int:
        facts: dict[str, Any] = self._redis.info("memory")
        return int(facts["used_memory"])


def _alone(parts: Parts, files: list[Path]) -> float:
    """Seconds that the networks alone take for a scan, in a process of its own.

    The worker has nothing to do meanwhile.
    """
    command = [sys.executable, "-m", "worker.bare_album", DETECTOR, *map(str, files)]
    with parts.beside(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
    if not line:
        raise StartFailed("The bare loop ended; its message stands above.")
    return float(json.loads(line)["seconds_per_image"])


def _check(client: httpx.Client, address: str, files: list[Path]) -> int:
    """Fetch the archive, and see that every scan is in it once and can be opened."""
    data = client.get(f"{address}/archive").raise_for_status().content
    with ZipFile(BytesIO(data)) as archive:
        if broken := archive.testzip():
            raise InpaintError(f"{broken} is broken in the archive")
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        if sorted(names) != [file.name for file in files]:
            raise InpaintError(f"The archive has {len(names)} scans for the {len(files)} sent")
    return len(data)


def _beside_iopaint(pile: Pile, program: Path, folder: Path, say: Say) -> Figures:
    """The same scans and masks through IOPaint's folder run and through our `telea`."""
    files = pile.files[:PEER_SCANS]
    chosen, theirs = folder / "chosen", folder / "theirs"
    for path in (chosen, theirs):
        path.mkdir()
    masks = [pile.masks / f"{file.stem}.png" for file in files]
    form: list[Any] = []
    for file, mask in zip(files, masks, strict=True):
        (chosen / file.name).hardlink_to(file)
        form.append(("images", (file.name, file.read_bytes())))
        form.append(("masks", (mask.name, mask.read_bytes())))
    variables = PATIENT | {"INPAINT_MODELS": CLASSICAL}
    with (
        apart(CLASSICAL, variables=variables) as parts,
        httpx.Client(base_url=parts.url, timeout=600, trust_env=False) as client,
    ):
        began = time.monotonic()
        answer = client.post("/albums", files=form).raise_for_status()
        address = answer.headers["location"]
        while client.get(address).json()["status"] not in FINAL:
            time.sleep(LOOK_SECONDS / 5)
        archive = client.get(f"{address}/archive").raise_for_status().content
        ours = time.monotonic() - began
    with ZipFile(BytesIO(archive)) as members:
        results = [one for one in members.infolist() if one.filename.endswith(".jpg")]
        our_bytes = sum(one.file_size for one in results)
    say(f"{len(results)} scans with {CLASSICAL} in {ours:.1f} s")
    options = {"model": "cv2", "device": "cpu", "image": chosen, "mask": pile.masks}
    words = [f"--{name}={value}" for name, value in options.items()]
    began = time.monotonic()
    subprocess.run([program, "run", *words, f"--output={theirs}"], check=True)
    peer = time.monotonic() - began
    their_files = sorted(theirs.iterdir())
    say(f"IOPaint: {len(their_files)} scans in {peer:.1f} s")
    return {
        "peer_scans": len(files),
        "peer_sent_mb": _bytes(chosen) / 1e6,
        "ours_seconds": ours,
        "ours_files": len(results),
        "ours_mb": our_bytes / 1e6,
        "iopaint_seconds": peer,
        "iopaint_files": len(their_files),
        "iopaint_mb": _bytes(theirs) / 1e6,
        "iopaint_suffixes": " ".join(sorted({file.suffix for file in their_files})),
    }


def _megapixels(file: Path) -> float:
    with Image.open(file) as image:
        return image.width * image.height / 1e6


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
