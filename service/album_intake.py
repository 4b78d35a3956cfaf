"""What comes in with albums: forms to items, each judged on its own.

In: the form of `POST /albums` (photographs or a zip, masks, fields) or of `POST /albums/{id}/items`
(one photograph, its mask). Out: `Item` and `State` of each photograph, with its files stored. A
bad file is a failed item; only a form that is wrong as a whole is refused, and then nothing stays.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath
from typing import IO, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis
from starlette.concurrency import run_in_threadpool

from inpaint import albums
from inpaint.albums import Item, State
from inpaint.blobs import Blobs
from inpaint.errors import (
    AlbumTooLarge,
    FileTooLarge,
    InpaintError,
    InputGone,
    InvalidField,
    MaskMissing,
)
from inpaint.header import MEDIA_TYPES, probe
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.settings import Settings

from .archives import confined, members
from .parts import File, Text, parts
from .problems import InvalidForm
from .schemas import InpaintForm
from .uploads import Upload, check

MOST_TEXTS = 64  # parts that are no files
MOST_WARNINGS = 100  # that an album keeps
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

    @staticmethod
    def sha(data: bytes) -> bytes:
        """The digest of what is stored."""
        return sha256(data).digest()


@dataclass
class Form:
    """A form that was received; its files are stored."""

    images: list[Stored] = field(default_factory=list)
    masks: list[Stored] = field(default_factory=list)  # each for the photograph of its name
    mask: Stored | None = None  # for all
    archive: IO[bytes] | None = None
    fields: dict[str, Any] = field(default_factory=dict)  # of InpaintForm, those that were sent
    album: AlbumForm = field(default_factory=AlbumForm)
    manifest: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # fields of InpaintForm by name

    def stored(self) -> Iterator[str]:
        """The keys of its files."""
        for file in [*self.images, *self.masks, *([self.mask] if self.mask else [])]:
            if file.key:
                yield file.key

    def close(self) -> None:
        """Delete the archive."""
        if self.archive:
            self.archive.close()


@dataclass(frozen=True)
class Intake:
    """What judges photographs: limits, stores, and what workers hold.

    Attributes:
        settings: limits.
        redis: a synchronous client.
        blobs: where files are stored.
        digests: of the models that workers hold, by name; what they hold changes seldom.
    """

    settings: Settings
    redis: Redis
    blobs: Blobs
    digests: Mapping[str, str | None]

    async def receive(self, request: Request, *, single: bool = False) -> Form:
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
            most = self.settings.max_file_bytes
            async for part in parts(request, most_bytes=most, spooled=spooled):
                if isinstance(part, Text):
                    texts.append(part)
                elif part.field == "manifest" and not single:
                    texts.append(Text("manifest", (part.data or b"").decode("utf-8", "replace")))
                elif part.name or part.size:  # a browser sends an empty part for no file
                    await self._file(form, part, single)
                if len(texts) > MOST_TEXTS:
                    raise InvalidField(f"The form has more than {MOST_TEXTS} fields.")
            _read_texts(form, texts, single)
        except BaseException:
            await run_in_threadpool(self.forget, form)
            raise
        return form

    async def _file(self, form: Form, part: File, single: bool) -> None:
        if part.field not in (("image", "mask") if single else FILES):
            if part.spool:
                part.spool.close()
            raise InvalidForm([_unknown(part.field, single)])
        if part.spool:
            if form.archive:
                part.spool.close()
                raise InvalidForm([_fault("archive", "was sent twice; send it once.")])
            form.archive = part.spool
            return
        file = Stored(part.name, part.size)
        if part.data is not None:
            file = await run_in_threadpool(self.store, part.name, part.data)
        if part.field == "mask":
            if form.mask:
                raise InvalidForm([_fault("mask", "was sent twice; send it once.")])
            form.mask = file
            return
        files = form.masks if part.field == "masks" else form.images
        files.append(file)
        most = 1 if single else self.settings.album_files
        if len(files) > most:
            raise AlbumTooLarge(f"More than {most} files were sent as {part.field}.")

    def store(self, name: str, data: bytes) -> Stored:
        """Store a file."""
        return Stored(name, len(data), self.blobs.put(data), Stored.sha(data))

    def forget(self, form: Form, *, but: Collection[str] = ()) -> None:
        """Delete what was received, but for these keys."""
        form.close()
        for key in set(form.stored()) - set(but):
            self.blobs.delete(key)

    def photographs(self, form: Form) -> tuple[list[tuple[Item, State]], list[dict[str, str]]]:
        """Judge all photographs of an album's form; return them, and what belongs to none.

        Raises:
            ArchiveUnreadable, AlbumTooLarge: the zip as a whole.
            StorageUnavailable: nothing stays of what was not there before.
        """
        found: list[tuple[Item, State]] = []
        masks, warnings = _by_stem(form.masks)
        used: set[str] = set()
        unpacked: list[str] = []
        names, mentioned = _Names(), set()
        given = self._members(form) if form.archive else self._read(form)
        try:
            for file, data, problem in given:
                if len(found) == self.settings.album_files:
                    raise AlbumTooLarge(
                        f"An album has at most {self.settings.album_files} photographs."
                    )
                if data is not None and file.key is None:
                    file = self.store(file.given, data)
                    unpacked += [file.key] if file.key else []
                name = confined(file.given)
                mask = masks.get(_stem(name)) or masks.get(_stem(PurePosixPath(name).name))
                used |= {mask.given} if mask else set()
                mentioned.add(name)
                judged = self.photograph(
                    file,
                    data,
                    problem,
                    mask=mask or form.mask,
                    fields=form.fields | form.manifest.get(name, {}),
                    album=form.album,
                    name=names.unique(name),
                )
                found.append(judged)
        except BaseException:
            for key in {*unpacked, *albums.keys(found)}:
                self.blobs.delete(key)
            raise
        for mask in form.masks:
            if mask.given not in used:
                warnings.append(
                    _warning("mask-unmatched", mask.given, "No photograph has its name.")
                )
        for name in form.manifest.keys() - mentioned:
            warnings.append(_warning("manifest-unmatched", name, "No photograph has this name."))
        return found, warnings[:MOST_WARNINGS]

    def _read(self, form: Form) -> Iterator[tuple[Stored, bytes | None, InpaintError | None]]:
        for file in form.images:
            yield file, self.blobs.get(file.key) if file.key else None, None

    def _members(self, form: Form) -> Iterator[tuple[Stored, bytes | None, InpaintError | None]]:
        assert form.archive is not None
        for member in members(form.archive, self.settings):
            file = Stored(member.given, len(member.data or b""))
            yield file, member.data, member.problem

    def photograph(
        self,
        file: Stored,
        data: bytes | None,
        problem: InpaintError | None = None,
        *,
        mask: Stored | None,
        fields: Mapping[str, Any],
        album: AlbumForm,
        name: str,
    ) -> tuple[Item, State]:
        """Judge one photograph.

        Args:
            file: as it is stored.
            data: its bytes; None: it could not be had.
            problem: why; None where it was too large.
            mask: of it.
            fields: of `InpaintForm`.
            album: what is asked of all.
            name: that it has in the album.
        """
        given = file.given if file.given != name else None
        about: dict[str, Any] = {"name": name, "given": given and given[:400]}
        job, outcome = None, None
        print_ = albums.fingerprint(file.digest, mask.digest if mask else None, None)
        of_mask = self.blobs.get(mask.key) if mask and mask.key else None
        try:
            if data is None or file.key is None:
                raise problem or self._too_large("image", file.size)
            job = job_of(file.key, None, fields, album.mask_only, self.settings)
            if mask and mask.key is None:
                raise self._too_large("mask", mask.size)
            job = judged(job, data, of_mask, self.settings)
        except MaskMissing as refusal:
            assert job is not None
            if album.on_missing_mask == "copy":
                outcome = _as_it_is(job, data or b"", self.settings)
            elif album.on_missing_mask == "auto":
                job = job.model_copy(update={"auto_mask": "scratches"})
            else:
                outcome = _failed(refusal, job)
        except InpaintError as refusal:
            if job is None or refusal.field != "mask":  # a photograph that is refused is not kept
                if file.key:
                    self.blobs.delete(file.key)
                item = Item(**about)
                return item, State("failed", print=print_, outcome=_failed(refusal, None))
            outcome, mask = _failed(refusal, job), None
        assert job is not None
        size = file.size + (mask.size if mask else 0)
        if mask:
            job = job.model_copy(update={"mask": mask.key})
        print_ = albums.fingerprint(file.digest, mask.digest if mask else None, job)
        if outcome:
            status: Any = "failed" if outcome.problem else "succeeded"
            return Item(**about, size=size, job=job), State(status, print=print_, outcome=outcome)
        if known := self._known(print_, job):
            item = Item(**about, size=size, job=job, reused=True)
            return item, State("succeeded", print=print_, outcome=known)
        return Item(**about, size=size, job=job), State("queued", print=print_)

    def _too_large(self, field: str, size: int) -> InpaintError:
        return FileTooLarge(
            f"The {field} has {size} bytes; at most {self.settings.max_file_bytes} are accepted.",
            field=field,
        )

    def _known(self, print_: str, job: InpaintJob) -> Outcome | None:
        """The outcome of an item with the same content and checkpoint, its files copied.

        Copied, so that they are kept as long as this album, and go with it alone.
        """
        model = job.auto_mask if job.mask_only else job.model
        if model not in self.digests:
            return None
        outcome = albums.done(self.redis, print_, self.digests[model])
        if outcome is None or outcome.result is None:
            return None
        keys: dict[str, str] = {}
        try:
            for name in ("result", "mask"):
                if key := getattr(outcome, name):
                    keys[name] = self.blobs.put(self.blobs.get(key))
        except InputGone:
            for key in keys.values():
                self.blobs.delete(key)
            return None
        return outcome.model_copy(update=keys)


FILES = ("images", "archive", "masks", "mask")


def job_of(
    image: str, mask: str | None, fields: Mapping[str, Any], mask_only: bool, settings: Settings
) -> InpaintJob:
    """The job that fields of `InpaintForm` ask for."""
    form = InpaintForm.model_validate(dict(fields))
    asked = form.model_dump(exclude={"model", "output_format"})
    model = form.model or settings.model
    if mask_only:
        model = asked.get("auto_mask", "none")
        if model == "none":
            raise InvalidField(
                "mask_only asks for a mask; say auto_mask=scratches.", field="mask_only"
            )
    return InpaintJob(
        image=image,
        mask=mask,
        mask_only=mask_only,
        model=model,
        output_format=form.output_format or "same",
        **asked,
    )


def judged(job: InpaintJob, image: bytes, mask: bytes | None, settings: Settings) -> InpaintJob:
    """The job, without a quality for a picture that has none: it was meant for the others.

    Raises:
        InpaintError: as `POST /inpaint` would answer to these files, as far as headers show it.
    """
    try:
        _judge(job, image, mask, settings)
    except InvalidField as refusal:
        if refusal.field != "output_quality":
            raise
        job = job.model_copy(update={"output_quality": None})
        _judge(job, image, mask, settings)
    return job


def _judge(job: InpaintJob, image: bytes, mask: bytes | None, settings: Settings) -> None:
    fields = {name: getattr(job, name) for name in InpaintForm.model_fields}
    form = InpaintForm.model_construct(**fields)
    check(Upload(image=image, mask=mask, form=form), job.output_format, settings)


def _failed(refusal: InpaintError, job: InpaintJob | None) -> Outcome:
    return Outcome(model=job.model if job else "", problem=Problem.of(refusal))


def _as_it_is(job: InpaintJob, data: bytes, settings: Settings) -> Outcome:
    """The upload as its own result."""
    header = probe(data, settings.limits)
    return Outcome(
        model=job.model,
        result=job.image,
        media_type=MEDIA_TYPES[header.format],
        format=header.format,
        mode=header.mode,
        width=header.width,
        height=header.height,
        coverage=0.0,
        unchanged=True,
    )


class _Names:
    """Names that differ on every system."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """The name, numbered where it is taken."""
        found, key = name, albums.folded(name)
        while albums.folded(found) in self._taken:
            self._next[key] += 1
            found = albums.numbered(name, self._next[key] + 1)
        self._taken.add(albums.folded(found))
        return found


def _stem(name: str) -> str:
    """What photograph and mask have in common: the name without its suffix."""
    return albums.folded(str(PurePosixPath(name).with_suffix("")))


def _by_stem(masks: Iterable[Stored]) -> tuple[dict[str, Stored], list[dict[str, str]]]:
    """Masks by what they have in common with their photographs, and those that come second."""
    found: dict[str, Stored] = {}
    warnings = []
    for mask in masks:
        stem = _stem(confined(mask.given))
        if stem in found:
            warnings.append(_warning("mask-doubled", mask.given, "Another mask has its name."))
        found.setdefault(stem, mask)
    return found, warnings


def _warning(code: str, name: str, detail: str) -> dict[str, str]:
    return {"code": code, "name": name[:400], "detail": detail}


def _fault(name: str, what: str) -> Problem:
    return Problem.of(InvalidField(f"The field {name} {what}", field=name))


def _unknown(name: str, single: bool) -> Problem:
    known = ("image", "mask") if single else (*FILES, "manifest", *AlbumForm.model_fields)
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


def _manifest(text: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """`{"name of a photograph": {field: value}}`."""
    try:
        manifest = json.loads(text)
        if not isinstance(manifest, dict) or not all(
            isinstance(value, dict) for value in manifest.values()
        ):
            raise ValueError("it must be an object of objects")
    except (ValueError, RecursionError) as error:
        return {}, [_fault("manifest", f"is not JSON as it should be: {error}.")]
    found, faults = {}, []
    for name, sent in manifest.items():
        found[confined(name)], wrong = _fields(sent)
        faults += [
            fault.model_copy(update={"detail": f"{name[:64]!r}: {fault.detail}"}) for fault in wrong
        ]
    return found, faults
