"""A whole service for a short while, on a free port and with a data folder that is then deleted.

For what looks at the service from outside: the demonstration, the benchmarks, the tests. Either as
users start it (`running`), or in single processes that may be killed one by one (`apart`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from redis import Redis
from redis.exceptions import RedisError

from inpaint import catalogue
from inpaint.errors import StartFailed

from . import server
from .guard import Guard, kill_group
from .supervisor import free_port

HOST = "127.0.0.1"
START_SECONDS = 180.0  # a first start on a slow disk reads a gigabyte of torch
STOP_SECONDS = 30.0
LOOK_SECONDS = 0.1
SHOWN = 20  # lines of each log, when something went wrong
INPAINT = (sys.executable, "-m", "inpaint")
SERVER, GATEWAY, WORKER = "server", "gateway", "worker"  # further workers: worker-2 …


@dataclass(frozen=True)
class Service:
    """A service that runs: its supervisor's process and its address."""

    process: "subprocess.Popen[bytes]"
    url: str


@contextmanager
def running(model: str, *, data: Path | None = None, port: int = 0) -> Iterator[Service]:
    """Start `inpaint serve --embedded` and give it once it is ready; stop it at the end.

    Args:
        model: the only one that is loaded, used for requests that name none.
        data: kept when it is given, else a temporary folder.
        port: 0 takes a free one.

    Raises:
        StartFailed: if it ends before it is ready; its own message went to stderr.
    """
    with TemporaryDirectory(prefix="inpaint-") as folder:
        port = free_port(HOST, port)
        options = {"host": HOST, "port": port, "model": model, "data": data or folder}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen(
            [*INPAINT, "serve", "--embedded", *words],
            env=_environment(model, {}),
            start_new_session=True,
        )
        service = Service(process, f"http://{HOST}:{port}")
        try:
            _wait_until_ready(service)
            yield service
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its guard kills what it leaves
                process.wait()


@dataclass
class Parts:
    """Processes by name, each with its log in `folder`; all end with the context of `apart`."""

    folder: Path
    guard: Guard
    environment: Mapping[str, str]
    url: str  # of the gateway
    redis_url: str
    commands: dict[str, Sequence[str]]
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a part, or start it again."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = self.guard.spawn(
                self.commands[name], self.environment, stdout=log.fileno(), stderr=log.fileno()
            )

    @contextmanager
    def beside(
        self, command: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a program beside the parts, with their settings; kill it at the end."""
        process = self.guard.spawn(command, self.environment, stdin=stdin, stdout=stdout)
        try:
            yield process
        finally:
            kill_group(process.pid)
            process.communicate()
            self.guard.forget(process.pid)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a part and to what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, number)

    def kill(self, name: str) -> None:
        """End a part without warning."""
        process = self.processes.pop(name)
        kill_group(process.pid)
        process.wait()
        self.guard.forget(process.pid)

    def stop(self, name: str) -> None:
        """Ask a part to end, and kill what has not ended in time."""
        self.signal(name, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.processes[name].wait(STOP_SECONDS)
        self.kill(name)

    def wait(self, *names: str) -> None:
        """Return once these parts are ready, all that there are if none is named.

        Raises:
            StartFailed: with a part's last words, if one has ended or is not ready in time.
        """
        names = names or tuple(self.commands)
        end = time.monotonic() + START_SECONDS
        while not all(self._ready(name) for name in names):
            for name in names:
                if self.processes[name].poll() is not None:
                    raise StartFailed(f"The {name} ended before it was ready: {self._words(name)}")
            if time.monotonic() > end:
                raise StartFailed(f"Not ready within {START_SECONDS:.0f} s: {', '.join(names)}.")
            time.sleep(LOOK_SECONDS)

    def reported(self) -> set[str]:
        """The workers that report ready, by name of their part; none while Redis is away."""
        with closing(_client(self.redis_url)) as redis:
            try:
                pids = {card.pid for card in catalogue.workers(redis)}
            except RedisError:
                return set()
        return {name for name, process in self.processes.items() if process.pid in pids}

    def _ready(self, name: str) -> bool:
        try:
            if name == GATEWAY:
                return httpx.get(f"{self.url}/livez", timeout=5, trust_env=False).is_success
            if name == SERVER:
                with closing(_client(self.redis_url)) as redis:
                    return bool(redis.ping())
        except (httpx.TransportError, RedisError):
            return False
        return name in self.reported()

    def show_logs(self) -> None:
        """Write the end of every part's log to stderr: the folder is about to be deleted."""
        for name in self.commands:
            for line in self._log(name)[-SHOWN:]:
                sys.stderr.write(f"{name}: {line}\n")

    def _words(self, name: str) -> str:
        return (self._log(name) or ["it wrote no log"])[-1]

    def _log(self, name: str) -> list[str]:
        log = server.log_path(self.folder) if name == SERVER else self.folder / f"{name}.log"
        return log.read_text(errors="replace").splitlines() if log.exists() else []


@contextmanager
def apart(
    model: str,
    *,
    worker: Sequence[str] = (*INPAINT, "worker"),
    workers: int = 1,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Parts]:
    """Start server, gateway and workers and give them once they are ready; end all at the end.

    Args:
        model: the only one that is loaded, used for requests that name none.
        worker: the workers' command.
        workers: how many.
        variables: settings of all parts, by the names of their variables.

    Raises:
        StartFailed: if a part does not become ready.
    """
    with TemporaryDirectory(prefix="inpaint-") as name:
        folder = Path(name)
        port, path = free_port(HOST, 0), server.socket_path(folder)
        changes = {
            "INPAINT_DATA": name,
            "INPAINT_HOST": HOST,
            "INPAINT_PORT": str(port),
            "REDIS_URL": server.socket_url(path),
            **(variables or {}),
        }
        commands: dict[str, Sequence[str]] = {
            SERVER: server.command(server.find_binary(), folder, path)
        }
        commands |= {WORKER if n == 1 else f"{WORKER}-{n}": worker for n in range(1, workers + 1)}
        commands[GATEWAY] = [*INPAINT, "serve"]
        with (folder / "lock").open("w") as lock, closing(Guard(lock.fileno())) as guard:
            url = f"http://{HOST}:{port}"
            environment = _environment(model, changes)
            parts = Parts(folder, guard, environment, url, changes["REDIS_URL"], commands)
            try:
                for part in commands:
                    parts.start(part)
                    if part == SERVER:
                        parts.wait(SERVER)
                parts.wait()
                yield parts
            except Exception:
                parts.show_logs()
                raise
            finally:
                for part in reversed(list(parts.processes)):
                    if part == SERVER:
                        parts.kill(part)
                    else:
                        parts.stop(part)


def _environment(model: str, changes: Mapping[str, str]) -> dict[str, str]:
    """Our own environment without its settings of places, with one model and with `changes`."""
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return environment | {"INPAINT_MODEL": model, "INPAINT_MODELS": model, **changes}


def _client(url: str) -> Redis:
    """A client that says at once when the server is away."""
    return Redis.from_url(url, retry=None, socket_timeout=2, socket_connect_timeout=2)


def _wait_until_ready(service: Service) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if service.process.poll() is not None:
            raise StartFailed("The service ended before it was ready; its message stands above.")
        try:
            if httpx.get(f"{service.url}/readyz", timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(2 * LOOK_SECONDS)
    raise StartFailed(f"The service was not ready within {START_SECONDS:.0f} s.")
