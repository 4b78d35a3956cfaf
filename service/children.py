"""The processes that the supervisor keeps: started, started again with patience, stopped."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .guard import Guard, kill_group

FIRST_PAUSE_SECONDS = 0.25  # before a child that died is started again; doubled each time
LONGEST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 30.0  # a child that lived this long has recovered: the next pause is the first

log = logging.getLogger("inpaint.supervisor")


@dataclass
class Child:
    """One program that should run as long as the supervisor does."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    guard: Guard
    deaths: int = field(default=0, init=False)  # since it last was steady
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)  # when it was started, monotonic
    _again: float = field(default=0.0, init=False)  # when it is started next, monotonic

    @property
    def pid(self) -> int | None:
        """The running process, which is also its group."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the program."""
        self._process = self.guard.spawn(self.command, self.environment)
        self._since = time.monotonic()
        log.info("%s started, pid %d", self.name, self._process.pid)

    def tend(self) -> int | None:
        """Start the program again if it ended and its pause is over; return the status of its end.

        The status is that of `subprocess`: negative for a signal. It is returned once per death.
        """
        if self._process is None:
            if time.monotonic() >= self._again:
                self.start()
            return None
        status = self._process.poll()
        if status is None:
            return None
        self._bury()
        lived = time.monotonic() - self._since
        self.deaths = 1 if lived > STEADY_SECONDS else self.deaths + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (self.deaths - 1), LONGEST_PAUSE_SECONDS)
        self._again = time.monotonic() + pause
        again = "not started again" if status == os.EX_CONFIG else f"started again in {pause:.2g} s"
        log.warning("%s %s; %s", self.name, describe(status), again)
        return status

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def gone(self) -> bool:
        """Say whether it has ended."""
        if self._process is not None and self._process.poll() is not None:
            self._bury()
        return self._process is None

    def kill(self) -> None:
        """End it now, with all its children."""
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()
            self._bury()

    def _bury(self) -> None:
        """Sweep what a dead process left of its group, then let the guard forget the group."""
        assert self._process is not None
        kill_group(self._process.pid)
        self.guard.forget(self._process.pid)
        self._process = None


def describe(status: int) -> str:
    """Say how a process ended."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
