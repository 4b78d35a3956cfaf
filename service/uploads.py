"""What comes in as a form: the limit of the body, the fields, the first look at the files.

Nothing is decoded here: size, type and pixels are judged by the files' headers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inpaint.errors import (
    FileTooLarge,
    ImageUnreadable,
    InvalidField,
    MalformedMultipart,
    MaskMissing,
    MaskUnreadable,
    UnsupportedImage,
)
from inpaint.header import Header, Limits, check_quality, probe
from inpaint.jobs import OutputFormat, Problem
from inpaint.mask import check_size
from inpaint.settings import Settings

from .problems import InvalidForm, answer
from .schemas import InpaintForm, MasksForm

FILES = {InpaintForm: ("image", "mask"), MasksForm: ("image",)}
MOST_FILES = 2  # of any form
FIELD_BYTES = 64 * 1024  # per text field
MOST_PARTS = 32  # of either kind; more are not even read


Form = TypeVar("Form", bound=BaseModel)


def form_schema(kind: type[BaseModel]) -> dict[str, Any]:  # of JSON
    """What /openapi.json says of a form."""
    properties = {
        **{name: {"type": "string", "format": "binary"} for name in FILES[kind]},
        **kind.model_json_schema()["properties"],
    }
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["image"],
        "properties": properties,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


@dataclass(frozen=True)
class Upload(Generic[Form]):
    """A form that was received: the bytes of its files and its text fields."""

    image: bytes
    mask: bytes | None
    form: Form


def body_limit(settings: Settings) -> int:
    """The bytes of the largest body that can be a good one: two files, all fields, the frame."""
    return MOST_FILES * settings.max_file_bytes + MOST_PARTS * FIELD_BYTES


class LimitBody:
    """ASGI middleware that refuses a body over `limit` bytes before a form spools it to disk.

    Paths in `larger` have limits of their own.

    A declared length is refused without reading on; an undeclared one is counted as it comes.
    """

    def __init__(self, app: ASGIApp, limit: int, larger: Mapping[str, int]) -> None:
        self.app = app
        self.limit = limit
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a body that is declared too large; count any other."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.larger.get(scope["path"], self.limit)
        declared = Headers(scope=scope).get("content-length", "0")
        if int(declared) > limit:  # the server has refused what is not a number
            error = FileTooLarge(f"The body has {declared} bytes; at most {limit} are accepted.")
            await answer(error, scope)(scope, receive, send)
            return
        counted = 0

        async def counting() -> Message:
            nonlocal counted
            message = await receive()
            counted += len(message.get("body", b""))
            if counted > limit:
                raise FileTooLarge(f"The body has more than the {limit} bytes that are accepted.")
            return message

        await self.app(scope, counting, send)


async def read_form(request: Request, kind: type[Form], settings: Settings) -> Upload[Form]:
    """Receive a form of this kind.

    Raises:
        MalformedMultipart: if the body is not a multipart form.
        FileTooLarge: if a file, or all together, has too many bytes.
        InvalidForm: if fields are missing, unknown, doubled, of the wrong kind or out of range.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "multipart/form-data":
        raise MalformedMultipart(
            f"The body is {media[:64] or 'of no type'}; multipart/form-data is accepted."
        )
    try:
        form = await request.form(
            max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=FIELD_BYTES
        )
    except HTTPException as error:
        hint = " A file needs a filename." if "Part exceeded" in error.detail else ""
        raise MalformedMultipart(f"The form cannot be read: {error.detail}{hint}") from error
    except UnicodeError as error:  # a charset that decodes nothing
        raise MalformedMultipart("The form's charset cannot be decoded; send UTF-8.") from error
    except ClientDisconnect as error:
        raise MalformedMultipart("The client went before the body was whole.") from error
    try:
        return await _upload(form, kind, settings)
    finally:
        await form.close()


async def _upload(form: FormData, kind: type[Form], settings: Settings) -> Upload[Form]:
    """Judge the form as a whole, so that one answer names every field at fault."""
    files, names = FILES[kind], tuple(kind.model_fields)
    faults = [*_strangers(form, files + names), *_doubles(form, files + names)]
    faults += _wrong_kinds(form, files, names)
    texts = {name: value for name in names if isinstance(value := form.get(name), str)}
    try:
        fields = kind.model_validate(texts)
    except ValidationError as error:
        faults += [
            _fault(
                str(fault["loc"][0]), f"was sent as {str(fault['input'])[:64]!r}. {fault['msg']}."
            )
            for fault in error.errors()
        ]
    image, mask = _file(form, "image"), _file(form, "mask")
    if image is None and not any(fault.field == "image" for fault in faults):
        faults.append(_fault("image", "is missing; send the picture as a file."))
    if faults:
        raise InvalidForm(faults)
    assert image is not None
    return Upload(
        image=await _bytes(image, "image", settings),
        mask=await _bytes(mask, "mask", settings) if mask else None,
        form=fields,
    )


def _strangers(form: FormData, known: tuple[str, ...]) -> Iterable[Problem]:
    for name in sorted(set(form) - set(known)):
        yield _fault(name[:64], f"is not known; the fields are {', '.join(known)}.")


def _doubles(form: FormData, known: tuple[str, ...]) -> Iterable[Problem]:
    for name in known:
        if (count := len(form.getlist(name))) > 1:
            yield _fault(name, f"was sent {count} times; send it once.")


def _wrong_kinds(
    form: FormData, files: tuple[str, ...], texts: tuple[str, ...]
) -> Iterable[Problem]:
    for name in files:
        if isinstance(form.get(name), str):
            yield _fault(name, "is text; send it as a file, with a filename.")
    for name in texts:
        if isinstance(form.get(name), UploadFile):
            yield _fault(name, "is a file; send it as text, without a filename.")


def _fault(field: str, what: str) -> Problem:
    return Problem.of(InvalidField(f"The field {field} {what}", field=field))


def _file(form: FormData, name: str) -> UploadFile | None:
    """A file of the form; None also for what a browser sends when none was chosen."""
    file = form.get(name)
    if not isinstance(file, UploadFile) or (not file.filename and not file.size):
        return None
    return file


async def _bytes(file: UploadFile, field: str, settings: Settings) -> bytes:
    if (file.size or 0) > settings.max_file_bytes:
        raise FileTooLarge(
            f"The {field} has {file.size} bytes; at most {settings.max_file_bytes} are accepted.",
            field=field,
        )
    return await file.read()


def check(upload: Upload[InpaintForm], output_format: OutputFormat, settings: Settings) -> None:
    """Judge the files by their headers; what only decoding shows is left to the worker.

    Raises:
        FileTooLarge, TooManyPixels, UnsupportedImage, ImageTooSmall, ImageUnreadable: the image.
        MaskMissing, MaskUnreadable, MaskSizeMismatch: the mask.
        InvalidField: a quality for a format that has none.
    """
    limits = settings.limits
    header = probe(upload.image, limits)
    check_quality(header, output_format, upload.form.output_quality)
    if upload.mask is not None:
        mask = _probe_mask(upload.mask, limits)
        if upload.form.mask_fit == "exact":
            check_size(mask, header)
    elif not header.alpha and upload.form.auto_mask == "none":
        raise MaskMissing(
            "No mask was sent, and the image has no transparency to take its place; "
            "auto_mask=scratches finds damage.",
            field="mask",
        )


def _probe_mask(data: bytes, limits: Limits) -> Header:
    try:
        return probe(data, limits, field="mask")
    except (UnsupportedImage, ImageUnreadable) as error:
        raise MaskUnreadable(error.detail, field="mask") from error
