import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image
from redis import Redis

from inpaint.errors import StartFailed
from service import server
from service.children import Child
from service.guard import Guard
from service.supervisor import free_port, listen, locked
from service.temporary import running

SECONDS = 20  # for a replacement to be ready, or for processes to vanish


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    with running("telea", data=tmp_path_factory.mktemp("data")) as supervised:
        yield supervised


def child(supervised, word):
    """The supervisor's child with a word in its command line; None while there is none."""
    for child in psutil.Process(supervised.process.pid).children():
        try:
            if any(word in part for part in child.cmdline()):
                return child
        except psutil.NoSuchProcess:  # it has ended and was not yet taken note of
            continue
    return None


def replaced(supervised, killed, word):
    new = child(supervised, word)
    return ended(killed) and new is not None and new.pid != killed.pid


def descendants(supervised):
    supervisor = psutil.Process(supervised.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def wait_until(happened, seconds=SECONDS):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_ended(processes):
    return all(ended(process) for process in processes)


def ready(supervised):
    try:
        return httpx.get(f"{supervised.url}/readyz").is_success
    except httpx.TransportError:
        return False


def png(picture):
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def post(supervised, **headers):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 12, 12))
    files = {"image": png(Image.new("RGB", (32, 32), "teal")), "mask": png(mask)}
    return httpx.post(f"{supervised.url}/inpaint", files=files, headers=headers, timeout=60)


@pytest.mark.slow
def test_the_service_fills_a_hole(supervised):
    answer = post(supervised)

    assert answer.status_code == 200
    pixels = Image.open(BytesIO(answer.content)).convert("RGB")
    assert pixels.getpixel((10, 10)) == pixels.getpixel((0, 0)) == (0, 128, 128)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(supervised):
    killed = child(supervised, "worker")

    killed.kill()
    wait_until(lambda: replaced(supervised, killed, "worker"))

    assert post(supervised, Prefer="wait=30").status_code == 200


@pytest.mark.slow
def test_a_killed_gateway_is_replaced(supervised):
    killed = child(supervised, "serve")

    killed.kill()
    wait_until(lambda: replaced(supervised, killed, "serve") and ready(supervised))

    assert post(supervised).status_code == 200


@pytest.mark.slow
def test_a_killed_server_is_replaced_and_keeps_its_data(supervised):
    job = post(supervised).headers["X-Job-ID"]
    killed = child(supervised, "redis.sock")

    killed.kill()
    wait_until(lambda: replaced(supervised, killed, "redis.sock") and ready(supervised))

    assert httpx.get(f"{supervised.url}/jobs/{job}/result").status_code == 200
    assert post(supervised, Prefer="wait=30").status_code == 200


@pytest.mark.slow
def test_a_killed_guard_is_replaced(supervised):
    killed = child(supervised, "guard.py")

    killed.kill()
    wait_until(lambda: replaced(supervised, killed, "guard.py"))

    assert ready(supervised)


def serve(data, port):
    """Run `inpaint serve --embedded` to its end, which is expected soon."""
    command = [sys.executable, "-m", "inpaint", "serve", "--embedded", "--model", "telea"]
    command += ["--data", str(data), "--port", str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", [["serve", "--embedded"], ["serve"], ["worker"]])
def test_a_data_folder_that_is_a_file_is_one_line_and_no_traceback(tmp_path, command):
    (tmp_path / "data").touch()
    done = subprocess.run(
        [sys.executable, "-m", "inpaint", *command],
        env={**os.environ, "INPAINT_DATA": str(tmp_path / "data"), "INPAINT_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = [line for line in done.stderr.splitlines() if "imports took" not in line]
    assert done.returncode == 1
    assert len(said) == 1
    assert said[0].startswith(f"inpaint: The data folder {tmp_path / 'data'}")


@pytest.mark.slow
def test_a_second_supervisor_on_the_same_data_is_refused(supervised):
    data = Path(child(supervised, "redis.sock").cwd()).parent

    second = serve(data, 0)

    assert second.returncode == 1
    assert f"The data folder {data} is in use" in second.stderr


@pytest.mark.slow
def test_a_busy_port_is_refused_before_anything_starts(supervised, tmp_path):
    port = httpx.URL(supervised.url).port

    second = serve(tmp_path, port)

    assert second.returncode == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in second.stderr
    assert "started" not in second.stderr


@pytest.mark.slow
def test_ctrl_c_stops_all_in_order_and_a_second_start_finds_its_data(tmp_path, capfd):
    with running("telea", data=tmp_path) as supervised:
        job = post(supervised).headers["X-Job-ID"]
        processes = descendants(supervised)
        assert len(processes) == 5  # supervisor, guard, server, worker, gateway
        os.killpg(supervised.process.pid, signal.SIGINT)
        assert supervised.process.wait(SECONDS) == 0
        wait_until(lambda: all_ended(processes))
    log = capfd.readouterr().err
    assert log.index("gateway stopped") < log.index("worker stopped") < log.index("server stopped")
    assert "killed" not in log

    with running("telea", data=tmp_path) as supervised:
        assert httpx.get(f"{supervised.url}/jobs/{job}/result").status_code == 200
        processes = descendants(supervised)
        supervised.process.kill()
        wait_until(lambda: all_ended(processes), seconds=5)


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_running_job(tmp_path, capfd):
    side = 4000  # pixels: a job of some seconds
    picture, mask = Image.new("RGB", (side, side), "teal"), Image.new("L", (side, side), "white")
    mask.paste("black", (0, 0, 8, side))
    with running("telea", data=tmp_path) as supervised:
        processes = descendants(supervised)
        with httpx.Client(base_url=supervised.url, timeout=30) as client:
            files = {"image": png(picture), "mask": png(mask)}
            job = client.post("/inpaint", files=files, headers={"Prefer": "respond-async"}).json()
            wait_until(lambda: client.get(f"/jobs/{job['id']}").json()["status"] == "running")

        supervised.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        supervised.process.send_signal(signal.SIGINT)

        assert supervised.process.wait(3) == 0
        wait_until(lambda: all_ended(processes))
    assert "worker is killed" in capfd.readouterr().err


@pytest.mark.slow
def test_a_corrupt_checkpoint_stops_everything_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors at all")
    monkeypatch.setenv("INPAINT_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("INPAINT_MODELS", "telea,broken")

    ending = serve(tmp_path / "data", 0)

    assert ending.returncode == 1
    assert "broken.safetensors cannot be read" in ending.stderr
    assert "The worker cannot serve" in ending.stderr


def test_the_server_on_the_path_goes_before_the_bundled_one(tmp_path, monkeypatch):
    bundled = server.find_binary()
    own = tmp_path / "redis-server"
    own.symlink_to(bundled)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert server.find_binary() == own

    own.unlink()
    assert server.find_binary().name == "valkey-server"


def test_a_redis_on_the_path_that_is_too_old_is_passed_over(tmp_path, monkeypatch):
    old = tmp_path / "redis-server"
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for words in ("Redis server v=6.0.16 sha=0", "no version at all"):
        old.write_text(f"#!/bin/sh\necho '{words}'\n")
        old.chmod(0o755)
        assert server.find_binary().name == "valkey-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")
    assert server.find_binary() == old


def test_a_worker_that_ends_itself_is_started_again(tmp_path, caplog):
    caplog.set_level("INFO", "inpaint.supervisor")
    with locked(tmp_path) as lock, closing(Guard(lock)) as guard:
        worker = Child("worker", [sys.executable, "-c", "exit(70)"], os.environ, guard)
        worker.start()
        first = worker.pid
        wait_until(lambda: worker.tend() == 70)  # a stall
        wait_until(lambda: worker.tend() is None and worker.pid is not None)
        assert worker.pid != first
        worker.kill()
    assert "worker ended with status 70; started again in 0.25 s" in caplog.text


@pytest.mark.slow
def test_the_server_refuses_writes_at_its_limit_and_evicts_nothing(supervised):
    socket_path = Path(child(supervised, "redis.sock").cwd()) / "redis.sock"
    with Redis(unix_socket_path=str(socket_path)) as redis:
        assert redis.config_get("maxmemory") == {"maxmemory": str(512 * 1024 * 1024)}
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.parametrize(
    ("command", "status"), [(["serve", "--embedded"], 1), (["serve"], 1), (["worker"], 78)]
)
def test_a_server_that_would_delete_jobs_is_refused_in_one_line(
    tmp_path, own_server, command, status
):
    with Redis.from_url(own_server.url()) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
    variables = {"REDIS_URL": own_server.url(), "INPAINT_DATA": str(tmp_path), "INPAINT_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "inpaint", *command],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert done.stderr.splitlines()[-1].startswith(
        "inpaint: The queue's server has maxmemory-policy allkeys-lru"
    )
    assert "Traceback" not in done.stderr


def test_a_deep_data_folder_gets_its_socket_elsewhere(tmp_path):
    deep = tmp_path / ("d" * 100)

    path = server.socket_path(deep)

    assert len(os.fsencode(path)) < server.SOCKET_PATH_BYTES
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rmdir()


def test_a_port_in_use_is_named():
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=f"Port {port} on 127.0.0.1"):
            free_port("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_named():
    with pytest.raises(StartFailed, match=r"192\.0\.2\.1"):
        free_port("192.0.2.1", 0)


def test_the_lock_of_a_data_folder_can_be_taken_again(tmp_path):
    with locked(tmp_path), pytest.raises(StartFailed, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path) as lock:
        assert os.fstat(lock).st_ino == (tmp_path / "supervisor.lock").stat().st_ino


def test_a_free_port_can_be_listened_on():
    port = free_port("127.0.0.1", 0)

    with listen("127.0.0.1", port) as listener:
        assert isinstance(listener, socket.socket)
