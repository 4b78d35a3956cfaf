import os
import signal
import subprocess
import sys

import psutil
import pytest

# Starts a child with a child of its own, prints their group, and waits to be killed.
SUPERVISOR = """
import os, sys, time
from service.guard import Guard

with open(sys.argv[1], "a") as lock:
    guard = Guard(lock.fileno())
    child = guard.spawn(["sh", "-c", "sleep 60 & sleep 60"], os.environ)
    if sys.argv[2] == "replaced":
        guard._process.kill()
        guard._process.wait()
        guard.tend([child.pid])
    if sys.argv[2] == "forgotten":
        guard.forget(child.pid)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def members(group):
    """The living processes of a group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def start(tmp_path):
    def run(case):
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path / "lock"), case]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with process.stdout as lines:
            return process, int(lines.readline())

    return run


@pytest.mark.parametrize("case", ["first", "replaced"])
def test_children_and_theirs_end_when_the_supervisor_is_killed(start, eventually, case):
    supervisor, group = start(case)
    eventually(lambda: len(members(group)) == 3, 5)

    supervisor.kill()
    supervisor.wait()

    eventually(lambda: not members(group), 5)


def test_a_group_that_was_taken_back_is_left_alone(start, eventually):
    supervisor, group = start("forgotten")
    eventually(lambda: len(members(group)) == 3, 5)
    guard = next(child for child in psutil.Process(supervisor.pid).children() if child.pid != group)

    supervisor.kill()
    supervisor.wait()

    eventually(lambda: not guard.is_running() or guard.status() == psutil.STATUS_ZOMBIE, 5)
    assert len(members(group)) == 3
    os.killpg(group, signal.SIGKILL)
