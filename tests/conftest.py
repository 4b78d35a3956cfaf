"""What tests share: a real Redis-protocol server, a running gateway, a running service.

Databases of the one server keep tests apart: 0 is flushed for each test that uses `redis`, 1
belongs to the service with a worker, 2 to the gateway without one, 3 to blobs.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from redis import Redis
from redis.exceptions import RedisError

from inpaint import catalogue, jobs
from inpaint.catalogue import Card, WorkerCard
from inpaint.settings import Settings
from service.server import command as server_command
from service.server import find_binary
from worker.leases import BatchWorker, Claim

START_SECONDS = 60.0
GOLDEN = Path(__file__).parent / "golden"

# For torch, which is not yet imported, and for processes: what is computed here is too small for
# more threads, and those that wait for each other on a busy machine make it slower by far.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&` leaves it so, to children too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable that our settings read."""
    for name in list(os.environ):
        if name.startswith("INPAINT_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


def until(true: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Wait for something to become true; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"still not true after {seconds} s"
        time.sleep(0.02)


@dataclass
class Server:
    """A real server on a unix socket of its own: what it acknowledged, it has when started again.

    It is that of `inpaint serve --embedded`, with `options` behind its own.
    """

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        return f"unix://{self.folder}/redis.sock?db={database}"

    def start(self) -> None:
        command = server_command(find_binary(), self.folder, self.folder / "redis.sock")
        self.process = subprocess.Popen([*command, *self.options])
        until(self._answers)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        with Redis.from_url(self.url(), retry=None) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False


@dataclass
class Running:
    """A gateway that answers, and its worker where it has one."""

    url: str
    settings: Settings
    client: httpx.Client
    gateway: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes] | None = None

    def post(self, image: object = None, mask: object = None, **options: object) -> httpx.Response:
        """POST /inpaint; `headers` and `data` as for httpx."""
        files = {}
        if image is not None:
            files["image"] = image if isinstance(image, tuple) else ("image.png", image)
        if mask is not None:
            files["mask"] = mask if isinstance(mask, tuple) else ("mask.png", mask)
        return self.client.post("/inpaint", files=files, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of the whole run; nothing kills it, so it writes no file."""
    with _server("--appendonly", "no") as running:
        yield running


@contextmanager
def _server(*options: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(
        prefix="inpaint-"
    ) as folder:  # short: socket paths are limited
        running = Server(Path(folder), options)
        running.start()
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server for one test, which may kill it."""
    with _server() as running:
        yield running


@pytest.fixture(scope="session")
def start_server() -> Callable[..., object]:
    """The context manager behind `server`, for fixtures of a wider scope than a test."""
    return _server


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Settings:
    """Settings with the flushed database and a fresh data folder."""
    return Settings(data=tmp_path, redis_url=server.url())


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    """A client of an empty database."""
    with jobs.connect(settings) as client:
        client.flushdb()
        yield client


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _running(settings: Settings, *, worker: bool, **variables: str) -> Iterator[Running]:
    """Start `inpaint serve`, and `inpaint worker` where wanted, as processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outside = {k: v for k, v in os.environ.items() if not k.startswith("INPAINT_")}
    environment = outside | {
        "INPAINT_DATA": str(settings.data),
        "INPAINT_MODEL": "telea",
        "INPAINT_MODELS": "telea,navier-stokes",
        "INPAINT_PORT": str(port),
        "REDIS_URL": settings.redis,
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    command = [sys.executable, "-m", "inpaint"]
    url = f"http://127.0.0.1:{port}"
    processes = [subprocess.Popen([*command, "serve"], env=environment)]
    if worker:
        processes.append(subprocess.Popen([*command, "worker"], env=environment))
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:

        def answers() -> bool:
            assert all(process.poll() is None for process in processes), "a process has ended"
            try:
                return client.get("/readyz" if worker else "/livez").is_success
            except httpx.TransportError:
                return False

        try:
            until(answers)
            yield Running(url, settings, client, *processes)
        finally:
            for process in processes:
                _stop(process)


@pytest.fixture(scope="session")
def service(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Gateway and worker with the classical models, for the whole run."""
    settings = Settings(data=tmp_path_factory.mktemp("service"), redis_url=server.url(1))
    with _running(settings, worker=True) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway whose queue no worker serves, with small limits."""
    settings = Settings(data=tmp_path_factory.mktemp("gateway"), redis_url=server.url(2))
    limits = {"INPAINT_MAX_FILE_BYTES": "100000", "INPAINT_QUEUE_LIMIT": "2"}
    with _running(settings, worker=False, **limits) as running:
        yield running


@pytest.fixture
def told(redis: Redis) -> Callable[[str], list[str]]:
    """A function that returns what a reply list says, each word as `ID status`."""

    def read(name: str) -> list[str]:
        hints = [jobs.read_hint(hint) for hint in redis.lrange(name, 0, -1)]
        return [f"{job_id} {(ending[0] or b'').decode()}" for job_id, ending, _ in hints]

    return read


@pytest.fixture(scope="session")
def start_service() -> Callable[..., object]:
    """The context manager behind `service`, for tests that stop or kill parts of it."""
    return _running


@dataclass
class ByHand:
    """A worker that holds `telea` and does nothing by itself: the test claims and commits."""

    settings: Settings
    worker: BatchWorker

    def claim(self, count: int = 1) -> list[Claim]:
        """Take so many jobs into leases, once they are there."""
        claims: list[Claim] = []

        def enough() -> bool:
            room = count - len(claims), count - len(claims)
            claims.extend(claim for claim, _ in self.worker.claim(room))
            return len(claims) == count

        until(enough)
        return claims

    def commit(self, *claims: Claim, ending: object = None) -> None:
        """End them, as `ending` says or with their own images as results."""
        for claim in claims:
            image = claim.payload["image"]
            done = {"model": "telea", "result": image, "media_type": "image/png"}
            facts = {"width": 96, "height": 64, "format": "png", "seconds": {"infer": 0.5}}
            self.worker.commit([(claim, ending or done | facts)])  # type: ignore[list-item]

    @contextmanager
    def reported(self, rate: float = 0.0) -> Iterator[None]:
        """Report ready for as long as the context lasts, also while Redis is away."""
        card = WorkerCard(
            worker="by-hand",
            pid=1,
            device="cpu",
            engine="none",
            precision="fp32",
            models=(Card(name="telea", architecture="telea"),),
            rate=rate,
        )
        stop = threading.Event()

        def beat() -> None:
            with jobs.connect(self.settings) as redis:
                while not stop.wait(0.2):
                    with suppress(RedisError):
                        catalogue.publish(redis, card)

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with jobs.connect(self.settings) as redis:
                catalogue.withdraw(redis, card.worker)


@pytest.fixture
def by_hand(settings: Settings) -> Iterator[ByHand]:
    """A worker of the test's settings, for tests that move jobs step by step."""
    patient = settings.model_copy(update={"lease_seconds": 60.0})
    worker = BatchWorker(patient, ["telea"], None)  # type: ignore[arg-type]  # no stage is asked
    yield ByHand(settings, worker)
    worker.connection.close()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """The function that waits for something to become true."""
    return until


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """A function that writes an array as a picture file."""

    def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """Pixels (64,96,3): smooth colours with an edge, so that a fill is not trivial."""
    rows, columns = np.mgrid[0:64, 0:96]
    red = rows * 3
    green = columns * 2
    blue = np.where(columns > 48, 200, 30)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def hole() -> np.ndarray:
    """The hole (64,96) of `photo`: a box in its middle."""
    hole = np.zeros((64, 96), dtype=bool)
    hole[24:40, 40:60] = True
    return hole


@pytest.fixture(scope="session")
def scratched(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`photo`, a little darker, with two white scratches (64,96,3), and where they are (64,96)."""
    damage = np.zeros(photo.shape[:2], dtype=bool)
    damage[10:12, 6:32] = damage[50:60, 82:85] = True
    pixels = np.where(damage[..., None], 255, np.minimum(photo, 200)).astype(np.uint8)
    return pixels, damage


@pytest.fixture(scope="session")
def image(encoded: Callable[..., bytes], photo: np.ndarray) -> bytes:
    """`photo` as a PNG."""
    return encoded(photo)


@pytest.fixture(scope="session")
def mask(encoded: Callable[..., bytes], hole: np.ndarray) -> bytes:
    """`hole` as a PNG, white = hole."""
    return encoded(hole.astype(np.uint8) * 255)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 drawn photographs (80,96), of which detectors hold a few out."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(60):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)
        picture.save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="session")
def feature_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS weights under the published names, drawn."""
    import torch  # most tests do without, and it takes a second
    from safetensors.torch import save_file

    from training.features import TAPS, FeatureNetwork
    from training.lpips import FILES

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("features")
    for network, (trunk, heads) in FILES.items():
        net = FeatureNetwork(network, list(TAPS[network]))
        save_file(net.state_dict(), folder / trunk)
        widths = [x.shape[1] for x in net(torch.zeros(1, 3, 64, 64)).values()]
        keys = {f"lin{n}.model.1.weight": torch.rand(1, w, 1, 1) for n, w in enumerate(widths)}
        save_file(keys, folder / heads)
    return folder


@pytest.fixture(scope="session")
def white_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector, `scratches`, that takes whatever is nearly white for a line.

    It is a real network whose weights are set by hand: the mean of the colours, from 0.8 of
    [-1, 1] on, a hundredfold and less 8, is the logit. Levels of 240 are damage, 238 are not.
    """
    import torch  # most tests do without, and it takes a second

    from models.checkpoint import Detection, Header, save
    from models.detector import DamageUNet

    network = DamageUNet(DamageUNet.Config(widths=(4, 4), stem=1, dilations=(1,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1)
        first, second = network.first
        first.convolution.weight[0, :, 1, 1] = 1 / 3
        first.norm.bias[0] = -0.8
        second.convolution.weight[0, 0, 1, 1] = 1
        network.ups[0][0].convolution.weight[0, 4, 1, 1] = 1  # after the 4 of the level below
        network.ups[0][1].convolution.weight[0, 0, 1, 1] = 1
        network.head.weight[0, 0] = 100.0
        network.head.bias.fill_(-8.0)
    header = Header.of(network, name="scratches", license="CC0-1.0", detection=Detection())
    folder = tmp_path_factory.mktemp("white")
    save(folder / "scratches.safetensors", network, header)
    return folder


@pytest.fixture(scope="session")
def published_weights() -> Callable[..., object]:
    """A function that makes the weights with which the golden vectors were computed.

    It takes `{key: shape}`, a seed, gains by key and, where it is known, the checksum that the
    weights must have, and returns a state dict. Everything follows from names and shapes; see
    `tests/golden/how-models.md`.
    """
    import torch  # most tests do without, and it takes a second

    normalize = torch.nn.functional.normalize

    def unit(key: str, shape: Sequence[int], seed: int) -> torch.Tensor:
        """Uniform values of mean 0 and deviation 1."""
        source = torch.Generator().manual_seed(zlib.crc32(key.encode()) ^ seed)
        return (torch.rand(list(shape), generator=source) - 0.5) * 12**0.5

    def matrix(key: str, shape: Sequence[int], seed: int, gain: float) -> torch.Tensor:
        """A weight of two axes or more, drawn for outputs of about unit size."""
        return unit(key, shape, seed) * (gain / torch.Size(shape[1:]).numel() ** 0.5)

    def singular(key: str, shapes: Mapping[str, Sequence[int]], seed: int) -> torch.Tensor:
        """A vector of spectral norm: two power iterations, so that a third would be visible."""
        layer = key[:-2]  # without _u or _v
        original = f"{layer}_orig"
        rows = matrix(original, shapes[original], seed, 1.0).double().flatten(1)
        left = normalize(unit(f"{layer}_u", [len(rows)], seed).double(), dim=0)
        for _ in range(2):
            right = normalize(rows.T @ left, dim=0)
            left = normalize(rows @ right, dim=0)
        return (left if key.endswith("_u") else right).float()

    def make(
        shapes: Mapping[str, Sequence[int]],
        seed: int,
        gains: Mapping[str, float] | None = None,
        checksum: int | None = None,
    ) -> dict[str, torch.Tensor]:
        gains, weights = gains or {}, {}
        for key, shape in shapes.items():
            kind = key.rpartition(".")[2]
            if kind == "num_batches_tracked":
                weights[key] = torch.tensor(100)
            elif kind in ("weight_u", "weight_v"):
                weights[key] = singular(key, shapes, seed)
            elif kind == "running_var":
                weights[key] = unit(key, shape, seed) / 12**0.5 + 1
            elif kind in ("weight", "weight_orig") and len(shape) > 1:
                weights[key] = matrix(key, shape, seed, gains.get(key, 2**0.5))
            elif kind == "weight":
                weights[key] = 1 + 0.1 * unit(key, shape, seed)
            else:
                weights[key] = unit(key, shape, seed) * gains.get(key, 0.1)
        found = zlib.crc32(b"".join(value.numpy().tobytes() for value in weights.values()))
        assert checksum is None or found == checksum
        return weights

    return make


@pytest.fixture(scope="session")
def golden_vectors(published_weights: Callable[..., object]) -> Callable[..., object]:
    """A function that reads the vectors of a published network by the name of their file.

    It returns the tensors by name, the weights they were computed with, and the allowed
    differences, relative to the largest value, by mode.
    """
    from safetensors import safe_open  # with torch

    def read(name: str) -> tuple[dict[str, object], object, dict[str, float]]:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            about = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
        shapes = {key: shape for key, shape, _ in json.loads(about["keys"])}
        gains, checksum = json.loads(about["gains"]), int(about["weights_crc32"])
        weights = published_weights(shapes, int(about["seed"]), gains, checksum)
        return tensors, weights, json.loads(about["tolerance"])

    return read
