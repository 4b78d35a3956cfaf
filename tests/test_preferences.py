import pytest
from starlette.datastructures import Headers

from inpaint.errors import BadHeader
from service.preferences import accepted_format, prefer


def preferred(*lines):
    headers = Headers(raw=[(b"prefer", line.encode()) for line in lines])
    preference = prefer(headers, default=30, most=60)
    return preference.seconds, preference.applied


@pytest.mark.parametrize(
    ("lines", "seconds", "applied"),
    [
        ((), 30, None),
        (("wait=5",), 5, "wait=5"),
        (("wait=0",), 0, "wait=0"),
        (("Wait = 5",), 5, "wait=5"),
        (('wait="5"',), 5, "wait=5"),
        (("wait=3600",), 60, "wait=60"),
        (("respond-async",), 0, "respond-async"),
        (("Respond-Async",), 0, "respond-async"),
        (("respond-async, wait=10",), 10, "respond-async, wait=10"),
        (("respond-async", "wait=10"), 10, "respond-async, wait=10"),
        (("handling=lenient; x=y", "return=minimal"), 30, None),
        (("",), 30, None),
    ],
)
def test_prefer_says_how_long_to_wait(lines, seconds, applied):
    assert preferred(*lines) == (seconds, applied)


@pytest.mark.parametrize(
    "line", ["wait=", "wait=x", "wait=-1", "wait=1.5", "wait=9999999999", "wait=٣"]
)
def test_a_wait_that_is_no_number_of_seconds_is_refused(line):
    with pytest.raises(BadHeader, match="whole number of seconds"):
        prefer(Headers({"prefer": line.encode().decode("latin-1")}), default=30, most=60)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", "same"),
        ("*/*", "same"),
        ("image/webp", "webp"),
        ("IMAGE/PNG", "png"),
        ("image/*", "same"),
        ("image/jpeg;q=0.5, image/webp;q=0.9", "webp"),
        ("image/avif,image/webp,*/*;q=0.8", "webp"),
        ("image/png;q=0", "same"),
        ("image/jpeg, image/png", "jpeg"),
        ("text/html;level=1;q=0.4,image/tiff", "tiff"),
        ("application/json", "same"),
        ("image/png;q=nonsense", "png"),
    ],
)
def test_accept_chooses_the_format(accept, wanted):
    assert accepted_format(Headers({"accept": accept})) == wanted
