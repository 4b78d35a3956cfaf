"""The form of POST /inpaint, refused before any worker is asked."""

import socket

import pytest

MOST = 100_000  # bytes per file of the gateway in the fixtures
BODY = 2 * MOST + 32 * 64 * 1024  # two files and the text fields


def refused(answer, status, code, *fields):
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert sorted(error["field"] for error in body["errors"]) == sorted(fields)
    return body["detail"]


def multipart(gateway, body, headers=None):
    kind = {"Content-Type": "multipart/form-data; boundary=xx"}
    return gateway.client.post("/inpaint", content=body, headers=kind | (headers or {}))


def raw(gateway, sent, until):
    """Send bytes as they are and read until `until` has come."""
    port = int(gateway.url.rpartition(":")[2])
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall(sent)
        while until not in received:
            received += line.recv(65536)
    return received


def part(disposition, value=b"1"):
    return b"--xx\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + value + b"\r\n"


def test_a_body_declared_over_the_limit_is_refused_before_it_is_sent(gateway):
    """Nothing of the body is ever sent, and yet the answer comes."""
    answer = raw(
        gateway,
        b"POST /inpaint HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n",
        until=b"}",
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"99999999999 bytes" in answer


def test_a_client_that_sends_a_declared_body_over_the_limit_still_gets_the_answer(gateway):
    answer = multipart(gateway, b"x" * (BODY + 1))
    assert str(BODY) in refused(answer, 413, "file-too-large")


def test_an_undeclared_body_is_counted(gateway):
    def endless():
        yield part(b'form-data; name="image"; filename="a.png"', b"x")[:-2]
        for _ in range(100):
            yield b"x" * 100_000

    answer = multipart(gateway, endless())
    assert answer.request.headers["transfer-encoding"] == "chunked"
    refused(answer, 413, "file-too-large")


def test_a_file_over_its_limit_is_refused_also_when_the_body_is_not(gateway, mask):
    detail = refused(gateway.post(b"x" * (MOST + 1), mask), 413, "file-too-large", "image")
    assert detail == f"The image has {MOST + 1} bytes; at most {MOST} are accepted."


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({"Content-Type": "application/json"}, "application/json"),
        ({"Content-Type": "image/png"}, "image/png"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "x-www-form-urlencoded"),
        ({}, "of no type"),
    ],
)
def test_another_content_type_is_refused_and_named(gateway, image, headers, seen):
    answer = gateway.client.post("/inpaint", content=image, headers=headers)
    detail = refused(answer, 400, "malformed-multipart")
    assert seen in detail
    assert "multipart/form-data is accepted" in detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--xx\r\nbroken",
        part(b"form-data"),  # no name
        b"--xx\r\nContent-Disposition\r\n\r\n1\r\n--xx--\r\n",
        b"--xx\r\n" + b"X: y\r\n" * 10_000 + b"\r\n1\r\n--xx--\r\n",
        b"".join(part(b'form-data; name="f%d"' % number) for number in range(100)) + b"--xx--",
        part(b'form-data; name="image"', b"x" * 70_000) + b"--xx--",
    ],
)
def test_a_broken_form_is_refused(gateway, body):
    answer = multipart(gateway, body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["code"] in ("malformed-multipart", "invalid-field")


@pytest.mark.parametrize("charset", ["idna", "zlib", "utf-16", "nonsense", "unicode_escape"])
def test_a_strange_charset_never_breaks_the_gateway(gateway, charset):
    body = part(b'form-data; name="\xff\xfe"', b"\xff\xd8\\x") + b"--xx--\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary=xx; charset={charset}"}
    assert multipart(gateway, body, kind).status_code in (400, 422)


def test_a_form_without_the_image_is_refused(gateway, mask):
    detail = refused(gateway.post(None, mask), 422, "invalid-field", "image")
    assert detail == "The field image is missing; send the picture as a file."


def test_a_file_field_in_which_nothing_was_chosen_counts_as_missing(gateway, mask):
    """What a browser sends for an empty file input."""
    refused(gateway.post(("", b""), mask), 422, "invalid-field", "image")


@pytest.mark.parametrize(
    "field", ["seed", "strategy", "detector", "metadata", "webhook_url", "Model"]
)
def test_a_field_that_is_unknown_or_does_nothing_yet_is_refused(gateway, image, mask, field):
    answer = gateway.post(image, mask, data={field: "1"})
    detail = refused(answer, 422, "invalid-field", field)
    assert "the fields are image, mask, model" in detail


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask_grow", "-1"),
        ("mask_grow", "129"),
        ("mask_grow", "many"),
        ("mask_feather", "1e9"),
        ("mask_feather", ""),
        ("mask_feather", "9" * 60_000),
        ("mask_mode", "black"),
        ("mask_fit", "stretch"),
        ("refine", "better"),
        ("tone", "sharpen"),
        ("output_format", "gif"),
        ("output_format", "\0"),
        ("output_quality", "0"),
        ("output_quality", "101"),
    ],
)
def test_an_impossible_value_is_refused_and_shown(gateway, image, mask, field, value):
    answer = gateway.post(image, mask, data={field: value})
    detail = refused(answer, 422, "invalid-field", field)
    assert f"The field {field} was sent as {value[:64]!r}." in detail


def test_what_refine_may_be_is_told(gateway, image, mask):
    detail = refused(
        gateway.post(image, mask, data={"refine": "all"}), 422, "invalid-field", "refine"
    )
    assert "'auto', 'none', 'patches' or 'full'" in detail


def test_all_fields_at_fault_are_named_in_one_answer(gateway, image, mask):
    data = {"mask_grow": "x", "seed": "1", "output_format": "gif"}
    answer = gateway.post(image, mask, data=data)
    refused(answer, 422, "invalid-field", "mask_grow", "seed", "output_format")


def test_a_field_that_comes_twice_is_refused(gateway, image, mask):
    answer = gateway.post(image, mask, data={"mask_grow": ["1", "2"]})
    assert "2 times" in refused(answer, 422, "invalid-field", "mask_grow")
    files = [("image", ("a", image)), ("image", ("b", image)), ("mask", ("m", mask))]
    answer = gateway.client.post("/inpaint", files=files)
    refused(answer, 422, "invalid-field", "image")


def test_a_picture_sent_as_text_is_refused(gateway, mask):
    answer = gateway.post(None, mask, data={"image": "not a file"})
    assert "as a file" in refused(answer, 422, "invalid-field", "image")


def test_a_text_field_sent_as_a_file_is_refused(gateway, image, mask):
    files = {"image": ("a", image), "mask": ("m", mask), "model": ("telea.txt", b"telea")}
    answer = gateway.client.post("/inpaint", files=files)
    assert "as text" in refused(answer, 422, "invalid-field", "model")


def test_a_quality_is_refused_for_a_format_that_has_none(gateway, image, mask):
    answer = gateway.post(image, mask, data={"output_quality": "90"})
    assert "has no meaning for png" in refused(answer, 422, "invalid-field", "output_quality")
    answer = gateway.post(image, mask, data={"output_quality": "90", "output_format": "jpeg"})
    assert answer.json()["code"] == "no-worker"  # all is well with the form


def test_an_upload_that_breaks_off_leaves_the_gateway_as_it_was(gateway):
    for _ in range(20):
        raw(
            gateway,
            b"POST /inpaint HTTP/1.1\r\nHost: x\r\nContent-Length: 50000\r\n"
            b"Content-Type: multipart/form-data; boundary=xx\r\n\r\n" + part(b'x; name="image"'),
            until=b"",
        )
    assert gateway.client.get("/livez").status_code == 200


def test_headers_beyond_reason_are_refused_by_the_server(gateway):
    answer = raw(
        gateway, b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 66_000, until=b"\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
