"""The forms of albums: of many photographs, or of one that is added; files are stored as they come.

Nothing is judged here but the form as a whole: one that is wrong leaves nothing behind.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from inpaint.blobs import Blobs
from inpaint.errors import AlbumTooLarge, InvalidField
from inpaint.jobs import Problem
from inpaint.settings import Settings

from .archives import confined
from .parts import File, Text, parts
from .problems import InvalidForm
from .schemas import InpaintForm

FILES = ("images", "archive", "masks", "mask")
SINGLE = ("image", "mask")  # of an item that is added
MOST_TEXTS = 64  # parts that are no files
MOST_FAULTS = 20  # of a manifest, that are told
OnMissingMask = Literal["auto", "copy"]


class AlbumForm(BaseModel):
    """The text fields of `POST /albums` beside those of `POST /inpaint`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", max_length=200, description="For people, and of the archive.")
    expect: int | None = Field(
        default=None, ge=1, description="The album stays open until it has so many photographs."
    )
    on_missing_mask: OnMissingMask | None = Field(
        default=None, description="A photograph without a mask: search it, or copy it."
    )
    mask_only: bool = Field(
        default=False, description="Items deliver masks, which auto_mask finds."
    )


@dataclass(frozen=True)
class Stored:
    """A file that has come and is stored, or was too large to be."""

    given: str  # its name
    size: int
    key: str | None = None
    digest: bytes = b""  # SHA-256

    @classmethod
    def of(cls, name: str, data: bytes, blobs: Blobs) -> "Stored":
        """Store a file."""
        return cls(name, len(data), blobs.put(data), sha256(data).digest())


@dataclass
class Form:
    """A form that was received; its files are stored."""

    images: list[Stored] = field(default_factory=list)
    masks: list[Stored] = field(default_factory=list)  # each for the photograph of its name
    mask: Stored | None = None  # for all
    archive: IO[bytes] | None = None
    fields: dict[str, Any] = field(default_factory=dict)  # of InpaintForm, those that were sent
    album: AlbumForm = field(default_factory=AlbumForm)
    manifest: dict[str, dict[str, Any]] = field(default_factory=dict)  # fields by photograph

    def stored(self) -> Iterator[str]:
        """The keys of its files."""
        for file in [*self.images, *self.masks, *([self.mask] if self.mask else [])]:
            if file.key:
                yield file.key

    def forget(self, blobs: Blobs, *, but: Collection[str] = ()) -> None:
        """Delete what was received, but for these keys."""
        if self.archive:
            self.archive.close()
        for key in set(self.stored()) - set(but):
            blobs.delete(key)


async def receive(
    request: Request, settings: Settings, blobs: Blobs, *, single: bool = False
) -> Form:
    """Receive the form of an album, or of a `single` item; its files are stored as they come.

    Raises:
        MalformedMultipart, InvalidForm: nothing of it stays.
        AlbumTooLarge: too many files.
        StorageUnavailable: if they cannot be stored.
    """
    form = Form()
    texts: list[Text] = []
    try:
        spooled = () if single else ("archive",)
        most = settings.max_file_bytes
        async for part in parts(request, most_bytes=most, spooled=spooled):
            if isinstance(part, Text):
                texts.append(part)
            elif part.field == "manifest" and not single:
                texts.append(Text("manifest", (part.data or b"").decode("utf-8", "replace")))
            elif part.name or part.size:  # a browser sends an empty part for no file
                await _file(form, part, settings, blobs, single)
            elif part.spool:
                part.spool.close()
            if len(texts) > MOST_TEXTS:
                raise InvalidField(f"The form has more than {MOST_TEXTS} fields.")
        await run_in_threadpool(_read_texts, form, texts, single)
    except BaseException:
        await run_in_threadpool(form.forget, blobs)
        raise
    return form


async def _file(form: Form, part: File, settings: Settings, blobs: Blobs, single: bool) -> None:
    """Store a file of the form; raises as `receive`."""
    files = form.masks if part.field == "masks" else form.images
    once = part.field in ("archive", "mask", "image")
    there = {"archive": form.archive, "mask": form.mask}.get(part.field, form.images)
    fault = None
    if part.field not in (SINGLE if single else FILES):
        fault = _unknown(part.field, single)
    elif once and there:
        fault = _fault(part.field, "was sent twice; send it once.")
    if fault:
        if part.spool:
            part.spool.close()
        raise InvalidForm([fault])
    if part.spool:
        form.archive = part.spool
        return
    if len(files) == settings.album_files and part.field != "mask":
        raise AlbumTooLarge(f"More than {len(files)} files were sent as {part.field}.")
    file = Stored(part.name, part.size)
    if part.data is not None:
        file = await run_in_threadpool(Stored.of, part.name, part.data, blobs)
    if part.field == "mask":
        form.mask = file
    else:
        files.append(file)


def _fault(name: str, what: str) -> Problem:
    return Problem.of(InvalidField(f"The field {name} {what}", field=name))


def _unknown(name: str, single: bool) -> Problem:
    known = SINGLE if single else (*FILES, "manifest", *AlbumForm.model_fields)
    names = ", ".join([*known, *InpaintForm.model_fields])
    return _fault(name[:64], f"is not known, or is no file; the fields are {names}.")


def _read_texts(form: Form, texts: list[Text], single: bool) -> None:
    """Judge the text fields as a whole, so that one answer names every field at fault."""
    faults: list[Problem] = []
    values: dict[str, str] = {}
    own = {} if single else AlbumForm.model_fields
    for text in texts:
        if text.field not in {*InpaintForm.model_fields, *own, *([] if single else ["manifest"])}:
            faults.append(_unknown(text.field, single))
        elif text.field in values:
            faults.append(_fault(text.field, "was sent twice; send it once."))
        values[text.field] = text.value
    album = {name: value for name, value in values.items() if name in own}
    sent = {n: v for n, v in values.items() if n in InpaintForm.model_fields and n not in own}
    with suppress(ValidationError):
        form.album = AlbumForm.model_validate(album)
    faults += _faults(AlbumForm, album)
    form.fields, more = _fields(sent)
    faults += more
    if "manifest" in values:
        form.manifest, more = _manifest(values["manifest"])
        faults += more
    if form.images and form.archive:
        faults.append(_fault("archive", "was sent beside images; send one of them."))
    if faults:
        raise InvalidForm(faults)


def _faults(kind: type[BaseModel], values: Mapping[str, Any]) -> list[Problem]:
    try:
        kind.model_validate(dict(values))
    except ValidationError as error:
        return [
            _fault(
                str(fault["loc"][0]) if fault["loc"] else "form",
                f"was sent as {str(fault['input'])[:64]!r}. {fault['msg']}.",
            )
            for fault in error.errors()
        ]
    return []


def _fields(sent: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Fields of `InpaintForm`, those that were sent alone, as plain values."""
    faults = _faults(InpaintForm, sent)
    if faults:
        return {}, faults
    form = InpaintForm.model_validate(dict(sent))
    return form.model_dump(mode="json", exclude_unset=True), []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError for a key that is there twice, of which one would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:64]!r} is there twice")
        found[key] = value
    return found


def _manifest(text: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """`{"name of a photograph": {field: value}}`."""
    try:
        manifest = json.loads(text, object_pairs_hook=_once)
        if not isinstance(manifest, dict) or not all(
            isinstance(value, dict) for value in manifest.values()
        ):
            raise ValueError("it must be an object of objects")
        json.dumps(manifest, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        return {}, [_fault("manifest", f"is not JSON as it should be: {error}.")]
    found: dict[str, dict[str, Any]] = {}
    faults: list[Problem] = []
    for name, sent in manifest.items():
        photo = confined(name)
        if photo in found:
            faults.append(_fault("manifest", f"has two entries for {photo[:64]!r}."))
            break
        found[photo], wrong = _fields(sent)
        faults += [
            fault.model_copy(update={"detail": f"{name[:64]!r}: {fault.detail}"})
            for fault in wrong[: MOST_FAULTS - len(faults)]
        ]
        if len(faults) == MOST_FAULTS:
            break
    return found, faults
