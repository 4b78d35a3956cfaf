"""The bound on what comes before a body, between its parts and after it, over real sockets."""

import socket
import time

import pytest

from service.protocol import HEAD_BYTES

PIECE = 8 * 1024  # bytes


@pytest.fixture
def line(gateway):
    port = int(gateway.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as opened:
        yield opened


def send_in_pieces(line, data):
    for start in range(0, len(data), PIECE):
        line.sendall(data[start : start + PIECE])
        time.sleep(0.01)  # so that they come one by one


def answer(line, until):
    received = b""
    while until not in received:
        part = line.recv(65536)
        assert part, received
        received += part
    return received


def is_hung_up_on(line, data):
    """Whether the server ends the connection instead of waiting for more."""
    try:
        send_in_pieces(line, data)
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except (ConnectionResetError, BrokenPipeError):
        pass
    return True


def test_a_long_head_within_the_bound_is_taken(line):
    filler = b"x" * (HEAD_BYTES // 2)
    send_in_pieces(line, b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + filler + b"\r\n\r\n")
    assert answer(line, b"alive").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 2 * HEAD_BYTES,
        b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 2 * HEAD_BYTES,
        b"GET /livez HTTP/1.1\r\n" + b"X-Many: x\r\n" * (HEAD_BYTES // 5),
    ],
    ids=["path", "value", "fields"],
)
def test_a_head_that_never_ends_is_refused(line, gateway, head):
    assert is_hung_up_on(line, head)
    assert gateway.client.get("/livez").status_code == 200


def test_what_follows_a_body_in_chunks_is_bounded_too(line, gateway):
    begin = b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    assert is_hung_up_on(line, begin + b"X-Trailer: " + b"x" * 4 * HEAD_BYTES)
    assert gateway.client.get("/livez").status_code == 200


def test_many_requests_on_one_connection_are_counted_one_by_one(line):
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 4096 + b"\r\n\r\n"
    for _ in range(HEAD_BYTES // len(request) + 2):
        line.sendall(request)
        assert answer(line, b"alive").startswith(b"HTTP/1.1 200 ")
