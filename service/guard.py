"""See that no process of ours outlives the supervisor, however it ends.

A pipe runs from the supervisor to the guard, a process with a session of its own. Every child
announces its process group through that pipe before it becomes its program. When the supervisor is
gone, even by `kill -9`, the pipe ends and the guard kills the groups that were not taken back.

This works alike on Linux and macOS, for programs that are not ours (the Redis server) and for
children of children. The file is also the guard's program, so it imports the standard library only.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class Guard:
    """The supervisor's end of the pipe; starts processes that the guard knows.

    Args:
        lock: a file descriptor that holds a lock. All children inherit it, so whoever gets the
            lock after this supervisor knows that they are gone too.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._start()

    def _start(self) -> None:
        read_end, self._pipe = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__)), str(read_end)],
            pass_fds=(read_end,),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        os.close(read_end)

    def spawn(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start `command` in a session of its own: a terminal's Ctrl-C does not reach it.

        Args:
            command: the program and its arguments.
            environment: the whole of it.
            stdin: as for `subprocess`, like the other two.
            stdout: None: where the supervisor prints.
            stderr: likewise.
        """
        return subprocess.Popen(
            command,
            env=dict(environment),
            start_new_session=True,
            pass_fds=(self._lock,),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=self._announce,  # in the child: it is known before it can do anything
        )

    def _announce(self) -> None:
        os.write(self._pipe, b"%d\n" % os.getpid())

    def forget(self, group: int) -> None:
        """Take a group back whose processes have ended."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, b"-%d\n" % group)

    def tend(self, groups: Iterable[int]) -> None:
        """Replace a guard that died and tell the new one what runs."""
        if self._process.poll() is None:
            return
        os.close(self._pipe)
        self._start()
        for group in groups:
            os.write(self._pipe, b"%d\n" % group)

    def close(self) -> None:
        """Let the guard end, killing first what has not been forgotten."""
        os.close(self._pipe)
        self._process.wait()


def kill_group(group: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, of zombies
        os.killpg(group, signal.SIGKILL)


def watch(pipe: int) -> None:
    """Read groups until the pipe ends, then kill those that are left."""
    groups: set[int] = set()
    with open(pipe) as lines:
        for line in lines:
            group = int(line)
            if group > 0:
                groups.add(group)
            else:
                groups.discard(-group)
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch(int(sys.argv[1]))
