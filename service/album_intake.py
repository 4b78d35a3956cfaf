"""Photographs of albums, each judged on its own: files to `Item` and `State`.

A bad file is a failed item. Only an archive that is wrong as a whole is refused, and then nothing
of it stays.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from redis import Redis

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
    StorageUnavailable,
)
from inpaint.header import MEDIA_TYPES, probe
from inpaint.jobs import InpaintJob, Outcome, Problem
from inpaint.settings import Settings

from .album_form import AlbumForm, Form, Stored
from .archives import confined, members
from .schemas import InpaintForm
from .uploads import Upload, check

MOST_WARNINGS = 100  # that an album keeps


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
        names, mentioned = Names(), set()
        given = self._members(form) if form.archive else self._read(form)
        try:
            for file, data, problem in given:
                if len(found) == self.settings.album_files:
                    raise AlbumTooLarge(
                        f"An album has at most {self.settings.album_files} photographs."
                    )
                if data is not None and file.key is None:
                    file = Stored.of(file.given, data, self.blobs)
                    unpacked += [file.key] if file.key else []
                name = confined(file.given)
                mask = masks.get(stem(name)) or masks.get(stem(PurePosixPath(name).name))
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
        detector = self.digests.get(job.auto_mask)
        item = Item(**about, size=size, job=job, detector=detector)
        if known := self._known(print_, item):
            reused = item.model_copy(update={"reused": True})
            return reused, State("succeeded", print=print_, outcome=known)
        return item, State("queued", print=print_)

    def _too_large(self, field: str, size: int) -> InpaintError:
        return FileTooLarge(
            f"The {field} has {size} bytes; at most {self.settings.max_file_bytes} are accepted.",
            field=field,
        )

    def _known(self, print_: str, item: Item) -> Outcome | None:
        """The outcome of an item with the same content and checkpoints, its files copied.

        Copied, so that they are kept as long as this album, and go with it alone.
        """
        assert item.job is not None
        model = item.job.model
        if model not in self.digests:
            return None
        outcome = albums.done(self.redis, print_, self.digests[model], item.detector)
        if outcome is None or outcome.result is None:
            return None
        keys: dict[str, str] = {}
        try:
            for name in ("result", "mask"):
                if key := getattr(outcome, name):
                    keys[name] = self.blobs.put(self.blobs.get(key))
        except (InputGone, StorageUnavailable):  # then it is computed anew
            for key in keys.values():
                self.blobs.delete(key)
            return None
        return outcome.model_copy(update=keys)


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


def _by_stem(masks: Iterable[Stored]) -> tuple[dict[str, Stored], list[dict[str, str]]]:
    """Masks by what they have in common with their photographs, and those that come second."""
    found: dict[str, Stored] = {}
    warnings = []
    for mask in masks:
        name = stem(confined(mask.given))
        if name in found:
            warnings.append(_warning("mask-doubled", mask.given, "Another mask has its name."))
        found.setdefault(name, mask)
    return found, warnings


def _warning(code: str, name: str, detail: str) -> dict[str, str]:
    return {"code": code, "name": name[:400], "detail": detail}


class Names:
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


def stem(name: str) -> str:
    """What photograph and mask have in common: the name without its suffix."""
    return albums.folded(str(PurePosixPath(name).with_suffix("")))
