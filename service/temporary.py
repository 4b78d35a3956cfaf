"""A whole service for a short while, on a free port and with a data folder that is then deleted.

For what looks at the service from outside: the demonstration, the benchmark, the tests.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from inpaint.errors import StartFailed

from .supervisor import free_port

HOST = "127.0.0.1"
START_SECONDS = 180.0  # a first start on a slow disk reads a gigabyte of torch
STOP_SECONDS = 30.0


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
        command = [sys.executable, "-m", "inpaint", "serve", "--embedded"]
        options = {"host": HOST, "port": port, "model": model, "data": data or folder}
        words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        environment["INPAINT_MODELS"] = model  # no other is loaded
        process = subprocess.Popen(command + words, env=environment, start_new_session=True)
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
        time.sleep(0.2)
    raise StartFailed(f"The service was not ready within {START_SECONDS:.0f} s.")
