"""What a request's headers ask for: `Prefer` (RFC 7240) and `Accept`."""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from inpaint.errors import BadHeader
from inpaint.header import MEDIA_TYPES
from inpaint.jobs import OutputFormat

TYPES = {media_type: name for name, media_type in MEDIA_TYPES.items()}


@dataclass(frozen=True)
class Preference:
    """How long to wait, and what to answer as `Preference-Applied`."""

    seconds: float
    applied: str | None


def prefer(headers: Headers, *, default: float, most: float) -> Preference:
    """Read `Prefer: respond-async` and `wait=N`; other preferences are ignored, as they may be.

    Raises:
        BadHeader: if `wait` is not a whole number of seconds.
    """
    given = [token.strip() for line in headers.getlist("prefer") for token in line.split(",")]
    respond_async = any(token.lower() == "respond-async" for token in given)
    waits = [match for token in given if (match := re.fullmatch(r"(?i:wait)\s*=\s*(.*)", token))]
    if not waits:
        return Preference(0, "respond-async") if respond_async else Preference(default, None)
    number = waits[0][1].strip('"')
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise BadHeader(
            f"Prefer: wait={number[:32]} was sent; a whole number of seconds is accepted."
        )
    seconds = min(float(number), most)
    applied = f"wait={seconds:g}"
    return Preference(seconds, f"respond-async, {applied}" if respond_async else applied)


def accepted_format(headers: Headers) -> OutputFormat:
    """The image type that `Accept` wants most; "same" when it names none of ours."""
    wanted: list[tuple[float, OutputFormat]] = []
    for token in headers.get("accept", "").split(","):
        name, *parameters = (part.strip().lower() for part in token.split(";"))
        if name in TYPES or name in ("image/*", "*/*"):
            quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
            share = float(quality) if re.fullmatch(r"[01](\.[0-9]{0,3})?", quality) else 1.0
            wanted.append((share, TYPES.get(name, "same")))
    best = max(wanted, key=lambda pair: pair[0], default=(0.0, "same"))  # the first of equals
    return best[1] if best[0] > 0 else "same"
