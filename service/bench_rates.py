"""How many pictures a second: against the bare network, and against LitServe in the same place.

Both sides of a comparison run in turn, ours first, and the median of the ratios counts. All of them
have the same pictures, codecs, network and engine, and start warm; fills stay as the network makes
them. While one side is counted, the other has nothing to do; LitServe, which polls, is suspended
meanwhile.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from tempfile import TemporaryDirectory

import httpx

from inpaint.errors import StartFailed

from .bench_client import Load, ask, load, post
from .bench_effort import COMPACT, FRESH, PATIENT, PLAIN, Effort, Figures, Say
from .bench_pictures import box, compare, jpeg, photograph, png
from .supervisor import free_port
from .temporary import HOST, INPAINT, START_SECONDS, Parts, apart

SIDE = 512  # pixels
HOLE = 160  # of its side: fits, with context, in one window
PICTURES = 4  # different ones, sent in turn
STANDIN_WORKER = (sys.executable, "-m", "worker.standins", "work")
WORKER = (*INPAINT, "worker")


@dataclass(frozen=True)
class Peer:
    """LitServe, which runs only while it is asked to."""

    url: str
    process: "subprocess.Popen[bytes]"

    def load(self, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
        """Wake it, drive it, and suspend it again."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            return load(self.url, requests, clients=clients, seconds=seconds)
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)


def against_bare(effort: Effort, say: Say) -> Figures:
    """AOT-GAN of default size: images a second through POST /inpaint over the bare network's."""
    return _against_bare(effort.large, "", _fewer_rounds(effort), say)


def against_bare_compact(effort: Effort, say: Say) -> Figures:
    """The compact generator, which leaves less time to decode and encode in."""
    return _against_bare(COMPACT, "_compact", effort, say)


def against_peer(effort: Effort, say: Say) -> Figures:
    """A stand-in of 8 ms an image that leaves the cores free, as a GPU does."""
    return _against_peer("sleep", "", STANDIN_WORKER, effort, say)


def against_peer_cpu(effort: Effort, say: Say) -> Figures:
    """The compact generator: codecs and network share the cores."""
    return _against_peer(effort.peer, "_cpu", WORKER, _fewer_rounds(effort), say)


def _fewer_rounds(effort: Effort) -> Effort:
    """Two at most, where 32 pictures take many seconds."""
    return replace(effort, rounds=min(effort.rounds, 2))


@contextmanager
def bare(parts: Parts, image: bytes, mask: bytes) -> Iterator["Bare"]:
    """The bare loop of the parts' model over the windows of a picture; see worker/bare.py."""
    files = parts.folder / "bare-image", parts.folder / "bare-mask"
    for file, data in zip(files, (image, mask), strict=True):
        file.write_bytes(data)
    command = [sys.executable, "-m", "worker.bare", *map(str, files)]
    with parts.beside(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Bare(process)


@dataclass(frozen=True)
class Bare:
    """The bare loop, which waits for being asked."""

    process: "subprocess.Popen[bytes]"

    def run(self, seconds: float) -> dict[str, float]:
        """Run it for so long and return what it says, `images_per_second` among it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"%f\n" % seconds)
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise StartFailed("The bare loop ended; its message stands above.")
        facts: dict[str, float] = json.loads(line)
        return facts


@contextmanager
def weights(model: str) -> Iterator[dict[str, str]]:
    """Settings that find a model, which is made for the moment if its weights are fresh."""
    with TemporaryDirectory(prefix="inpaint-") as folder:
        if model.startswith(FRESH):
            command = [sys.executable, "-m", "worker.standins", "weights", model, folder]
            subprocess.run(command, check=True)
        yield PATIENT | {"INPAINT_CHECKPOINTS": folder}


def _against_bare(model: str, suffix: str, effort: Effort, say: Say) -> Figures:
    pictures, mask = _pictures()
    ours: list[float] = []
    theirs: list[float] = []
    with (
        weights(model) as variables,
        apart(model, variables=variables) as parts,
        bare(parts, pictures[0], mask) as loop,
    ):
        files = [{"image": picture, "mask": mask} for picture in pictures]
        requests = [post("/inpaint", each, PLAIN) for each in files]
        compare(pictures[0], mask, ask(parts.url, requests[0]).body)
        for number in range(effort.rounds):
            seconds = effort.seconds * (2 if model == effort.large else 1)  # few a second
            served = load(parts.url, requests, clients=effort.clients, seconds=seconds)
            ours.append(served.rate)
            facts = loop.run(seconds / 2)
            theirs.append(facts["images_per_second"])
            say(
                f"{model}, round {number + 1}: {ours[-1]:.2f} images/s through POST /inpaint,"
                f" {theirs[-1]:.2f} bare ({facts['engine']}, {facts['precision']})"
            )
    return {
        f"ratio_to_bare{suffix}": _ratio(ours, theirs),
        f"images_per_s{suffix}": median(ours),
        f"bare_images_per_s{suffix}": median(theirs),
    }


def _against_peer(
    model: str, suffix: str, worker: Sequence[str], effort: Effort, say: Say
) -> Figures:
    pictures, mask = _pictures()
    files = [{"image": picture, "mask": mask} for picture in pictures]
    requests = [post("/inpaint", each, PLAIN) for each in files]
    to_peer = [post("/predict", each) for each in files]
    figures: Figures = {}
    with (
        weights(model) as variables,
        apart(model, worker=worker, variables=variables) as parts,
        _peer(parts) as peer,
    ):
        compare(pictures[0], mask, ask(parts.url, requests[0]).body)
        os.killpg(peer.process.pid, signal.SIGCONT)
        compare(pictures[0], mask, ask(peer.url, to_peer[0]).body)
        os.killpg(peer.process.pid, signal.SIGSTOP)
        for count, clients in ((32, effort.clients), (1, 1)):
            ours: list[Load] = []
            theirs: list[Load] = []
            for number in range(effort.rounds):
                ours.append(load(parts.url, requests, clients=clients, seconds=effort.seconds))
                theirs.append(peer.load(to_peer, clients, effort.seconds))
                say(
                    f"{model}, {clients} clients, round {number + 1}: {ours[-1].rate:.1f} images/s,"
                    f" LitServe {theirs[-1].rate:.1f}"
                )
            ratio = _ratio([one.rate for one in ours], [one.rate for one in theirs])
            figures[f"ratio_to_litserve_{count}{suffix}"] = ratio
            for name, loads in (("", ours), ("litserve_", theirs)):
                at = f"{suffix}_1" if clients == 1 else suffix
                figures[f"{name}p95_ms{at}"] = median(one.wait_ms(95) for one in loads)
                figures[f"{name}served_per_s{at}"] = median(one.rate for one in loads)
    return figures


@contextmanager
def _peer(parts: Parts) -> Iterator[Peer]:
    """LitServe with the parts' model, ready and suspended.

    Raises:
        StartFailed: if it is not installed, or does not become ready.
    """
    if importlib.util.find_spec("litserve") is None:
        raise StartFailed(
            "LitServe, which this part compares with, is not installed here:"
            " pip install -c constraints.txt '.[dev]', or leave the part out with --only."
        )
    port = free_port(HOST, 0)
    url = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "worker.peer", str(port)]
    with parts.beside(command, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + START_SECONDS
        with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
            while not _healthy(client):
                if process.poll() is not None or time.monotonic() > end:
                    raise StartFailed("LitServe did not become ready; its message stands above.")
                time.sleep(0.2)
        os.killpg(process.pid, signal.SIGSTOP)
        yield Peer(url, process)


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def _pictures() -> tuple[list[bytes], bytes]:
    """Photographs and the mask that goes with each of them."""
    pictures = [jpeg(photograph(SIDE, SIDE, seed=seed)) for seed in range(PICTURES)]
    return pictures, png(box(SIDE, SIDE, HOLE))


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios: a machine that becomes slower slows both sides."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))
