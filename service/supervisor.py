"""The whole service on one machine: Redis server, worker and gateway, watched by this process.

    supervisor ─┬─ guard      kills the others if the supervisor vanishes
                ├─ server     embedded Redis, unless REDIS_URL names one
                ├─ worker     `inpaint worker`
                └─ gateway    `inpaint serve`

Each has a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone, which
stops them in order: the gateway (it answers what it has accepted), the worker (it finishes what
it has taken), the server. What dies in between is started again. The supervisor has a single thread
and imports no torch.
"""

import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import httpx
import redis

from inpaint import catalogue
from inpaint.blobs import made
from inpaint.errors import StartFailed
from inpaint.servers import check_blobs, check_queue
from inpaint.settings import Settings

from . import server
from .children import Child, describe
from .guard import Guard

LOOK_SECONDS = 0.1  # between two looks at the children
LOCK_SECONDS = 2.0  # how long what a killed supervisor has left may take to vanish
SERVER_SECONDS = 30.0  # for the server to load its data
STOP_SECONDS = {"gateway": 8.0, "worker": 30.0, "server": 5.0}  # then it is killed
LOCK_FILE = "supervisor.lock"

log = logging.getLogger("inpaint.supervisor")


class Stopped(Exception):
    """A signal asked the service to stop."""


class Signals:
    """Counts the requests to stop: the second one means at once."""

    def __init__(self) -> None:
        self.count = 0
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def supervise(settings: Settings) -> None:
    """Run the service until a signal stops it.

    Raises:
        StartFailed: if the port is busy, the data folder is in use or not to be written to,
            there is no server that will do, or the worker cannot serve what it is asked to.
    """
    made(settings.data)
    if settings.blobs is None:
        made(settings.blob_folder)
    port = free_port(settings.host, settings.port)
    with locked(settings.data) as lock, closing(Guard(lock)) as guard:
        Supervisor(settings, port, guard).run()


def free_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0.

    Raises:
        StartFailed: if it is in use or may not be taken.
    """
    with closing(listen(host, port)) as listener:
        number: int = listener.getsockname()[1]
        return number


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, ready to be listened on.

    Raises:
        StartFailed: if the address is in use or may not be taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartFailed(f"The host {host} cannot be listened on: {error.strerror}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartFailed(
            f"Port {port} on {host} cannot be used: {error.strerror}. Choose another with --port."
        ) from error
    return listener


@contextmanager
def locked(data: Path) -> Iterator[int]:
    """Hold the data folder for this supervisor; give the lock's file descriptor.

    Raises:
        StartFailed: if another supervisor, or what one has left, uses the folder.
    """
    with (data / LOCK_FILE).open("a") as file:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise StartFailed(
                        f"The data folder {data.resolve()} is in use by another `inpaint serve"
                        " --embedded`; stop that one, or set INPAINT_DATA to another folder."
                    ) from error
                time.sleep(LOOK_SECONDS)
        yield file.fileno()


class Supervisor:
    """Starts, watches and stops the three processes."""

    def __init__(self, settings: Settings, port: int, guard: Guard) -> None:
        self._settings = settings
        self._guard = guard
        self._url = _url(settings.host, port)
        self._began = time.monotonic()
        self._signals = Signals()
        self._children: list[Child] = []  # in order of starting
        self._redis_url = settings.redis_url
        self._private: Path | None = None  # a socket's folder, when it is not in the data folder
        self._changes = {
            "INPAINT_DATA": str(settings.data.resolve()),
            "INPAINT_HOST": settings.host,
            "INPAINT_PORT": str(port),
            "INPAINT_MODEL": settings.model,
        }

    def run(self) -> None:
        """Start everything, watch it until a signal comes, stop everything."""
        try:
            if self._redis_url is None:
                self._start_server()
            else:
                log.info("REDIS_URL is set: no embedded server")
            self._changes["REDIS_URL"] = str(self._redis_url)
            check_queue(self._changes["REDIS_URL"])
            if self._settings.blobs is not None:
                check_blobs(self._settings.blobs, self._changes["REDIS_URL"])
            for name, command in (("worker", "worker"), ("gateway", "serve")):
                self._start(name, [sys.executable, "-m", "inpaint", command])
            self._watch_until_ready()
            while True:
                self._watch()
        except Stopped:
            log.info("stopping; once more to stop at once")
        finally:
            self._stop()

    def _start(self, name: str, command: list[str]) -> None:
        child = Child(name, command, {**os.environ, **self._changes}, self._guard)
        self._children.append(child)
        child.start()

    def _start_server(self) -> None:
        """Start the embedded server and wait until it has its data in memory."""
        folder = made(self._settings.redis_folder).resolve()
        folder.chmod(0o700)
        path = server.socket_path(folder)
        if path.parent != folder:
            self._private = path.parent
        binary = server.find_binary()
        self._redis_url = server.socket_url(path)
        log.info("%s keeps its data in %s", binary.name, folder)
        self._start("server", server.command(binary, folder, path, self._settings.redis_bytes))
        end = time.monotonic() + SERVER_SECONDS
        with closing(_client(self._redis_url)) as client:
            while not _answers(client.ping):
                status = self._watch()
                if status is not None or time.monotonic() > end:
                    ending = "does not answer" if status is None else describe(status)
                    raise StartFailed(
                        f"The server {ending}: {server.last_words(folder)}"
                        f" (whole log: {server.log_path(folder)})."
                    )
        log.info("server ready after %.1f s", self._seconds())

    def _watch_until_ready(self) -> None:
        """Watch, and say when the gateway answers and when a worker reports that it is ready."""
        while not _answers(self._get_livez):
            self._watch()
        log.info("gateway answers after %.1f s", self._seconds())
        with closing(_client(self._changes["REDIS_URL"])) as client:
            while not _answers(lambda: self._worker_reports(client)):
                self._watch()
        log.info("worker ready after %.1f s", self._seconds())
        log.info("ready after %.1f s: %s", self._seconds(), self._url)
        log.info(
            "try: curl -f -F image=@photo.jpg -F mask=@mask.png %s/inpaint -o restored.jpg",
            self._url,
        )

    def _get_livez(self) -> bool:
        return httpx.get(f"{self._url}/livez", timeout=2, trust_env=False).is_success

    def _worker_reports(self, client: redis.Redis) -> bool:
        """Say whether our worker is ready; the card of a killed one may still be there."""
        pids = [child.pid for child in self._children if child.name == "worker"]
        return any(card.pid in pids for card in catalogue.workers(client))

    def _watch(self) -> int | None:
        """Look after the children once, after a short sleep; return a status of one that died."""
        time.sleep(LOOK_SECONDS)
        if self._signals.count:
            raise Stopped
        self._guard.tend(child.pid for child in self._children if child.pid is not None)
        died = None
        for child in self._children:
            status = child.tend()
            if child.name == "worker" and status == os.EX_CONFIG:
                raise StartFailed(
                    "The worker cannot serve what it is asked to, and starting it again would not"
                    " help; its own message above says why."
                )
            died = status if status is not None else died
        return died

    def _stop(self) -> None:
        """Stop the children, the last first, each with the time that it may need."""
        for child in reversed(self._children):
            child.ask_to_stop()
            end = time.monotonic() + STOP_SECONDS[child.name]
            while not child.gone():
                if self._signals.count > 1 or time.monotonic() > end:
                    log.warning("%s is killed", child.name)
                    child.kill()
                time.sleep(LOOK_SECONDS / 5)
            log.info("%s stopped", child.name)
        if self._private is not None:
            (self._private / "redis.sock").unlink(missing_ok=True)
            self._private.rmdir()

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _client(url: str) -> redis.Redis:
    """Return a client that says at once when the server is away."""
    return redis.Redis.from_url(url, retry=None, socket_timeout=2, socket_connect_timeout=2)


def _answers(ask: Callable[[], object]) -> bool:
    """Say whether asking gives something, and not an error of the connection."""
    try:
        return bool(ask())
    except (httpx.HTTPError, redis.RedisError):
        return False


def _url(host: str, port: int) -> str:
    """Return where a client on this machine reaches the gateway."""
    if host in ("0.0.0.0", "::"):  # every address: also the local one
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
