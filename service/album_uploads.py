"""What uploads do to albums: one begins, a photograph is added, a mask runs a photograph again."""

from dataclasses import asdict
from hashlib import sha256
from pathlib import PurePosixPath

from inpaint import albums
from inpaint.albums import Album, Item, Photo, State
from inpaint.errors import (
    AlbumTooLarge,
    AlbumUnusable,
    InvalidField,
    JobFailed,
    JobNotFinished,
    UnknownModel,
)
from inpaint.jobs import FINAL

from .album_form import AlbumForm, Form, Stored
from .album_intake import Intake, job_of, judged
from .archives import confined

SHOWN = 20  # refusals that an album without a usable photograph lists


class Unusable(AlbumUnusable):
    """No photograph can be used; `items` are the first of them, with their problems."""

    def __init__(self, photos: list[tuple[Item, State]]) -> None:
        super().__init__(
            f"None of the {len(photos)} photographs can be used."
            if photos
            else "No photograph was sent; with `expect` an album may begin without."
        )
        self.items = [
            {"name": item.name, **state.outcome.problem.model_dump()}
            for item, state in photos[:SHOWN]
            if state.outcome and state.outcome.problem
        ]


def create(intake: Intake, form: Form) -> str:
    """Judge what came, and make the album of it; return its id. Nothing stays of what is refused.

    Raises:
        Unusable: no photograph can be used, and no others are to come.
        UnknownModel: no worker holds what is asked for.
        ArchiveUnreadable, AlbumTooLarge, StorageUnavailable, QueueUnavailable: all of it.
    """
    photos: list[tuple[Item, State]] = []
    keep: set[str] = set()
    is_open = form.album.expect is not None
    try:
        if (form.album.expect or 0) > intake.settings.album_files:
            raise AlbumTooLarge(
                f"An album has at most {intake.settings.album_files} photographs.", field="expect"
            )
        _check(intake, form)
        photos, warnings = intake.photographs(form)
        _check_models(intake, photos)
        if not is_open and all(state.status == "failed" for _, state in photos):
            raise Unusable(photos)
        mask = None
        if is_open and form.mask and form.mask.key:
            mask = asdict(form.mask) | {"digest": form.mask.digest.hex()}
        album_id = albums.create(
            intake.redis,
            intake.settings,
            photos,
            name=form.album.name,
            expect=form.album.expect,
            is_open=is_open,
            defaults={
                "params": form.fields | form.album.model_dump(exclude={"name", "expect"}),
                "mask": mask,
            },
            warnings=warnings,
        )
        keep = albums.keys(photos) | ({mask["key"]} if mask else set())
    finally:
        form.forget(intake.blobs, but=keep)
        if not keep:
            for key in albums.keys(photos):
                intake.blobs.delete(key)
    return album_id


def _check(intake: Intake, form: Form) -> None:
    """Refuse what is wrong for every photograph, whichever come."""
    job = job_of("0" * 32, None, form.fields, form.album.mask_only, intake.settings)
    missing = set(job.needs.split("+")) - set(intake.digests)
    if missing:
        _refuse_model(missing, intake)


def _check_models(intake: Intake, photos: list[tuple[Item, State]]) -> None:
    needs = {item.job.needs for item, state in photos if item.job and state.status == "queued"}
    missing = {name for some in needs for name in some.split("+")} - set(intake.digests)
    if missing and intake.digests:
        _refuse_model(missing, intake)


def _refuse_model(missing: set[str], intake: Intake) -> None:
    raise UnknownModel(
        f"No worker holds {', '.join(sorted(missing))[:64]}; they hold"
        f" {', '.join(sorted(intake.digests))}.",
        field="model",
    )


def add_photo(intake: Intake, album: Album, form: Form) -> tuple[Photo, bool]:
    """The item that a photograph becomes, or is already, and whether it is new.

    Raises:
        AlbumClosed, AlbumTooLarge, UnknownModel, StorageUnavailable, QueueUnavailable: nothing of
            it stays.
    """
    (file,) = form.images
    params, shared = album.defaults["params"], album.defaults["mask"]
    own = {name: params[name] for name in ("on_missing_mask", "mask_only")}
    common = {name: value for name, value in params.items() if name not in own}
    mask = form.mask
    if mask is None and shared:
        mask = Stored(**shared | {"digest": bytes.fromhex(shared["digest"])})
    given = confined(file.given)
    keep: set[str] = {shared["key"]} if shared else set()
    made: set[str] = set()
    try:
        item, state = intake.photograph(
            file,
            intake.blobs.get(file.key) if file.key else None,
            mask=mask,
            fields=common | form.fields,
            album=AlbumForm(**own),
            name=given,
        )
        made = albums.keys([(item, state)]) - keep
        _check_models(intake, [(item, state)])
        name, count = given, 1
        while not isinstance(found := _try(intake, album, item, state, name, file), int):
            if found.state.print == state.print:
                return found, False
            count += 1
            name = albums.numbered(given, count)
        keep |= made
        return albums.photo(intake.redis, intake.settings, album.id, found), True
    finally:
        form.forget(intake.blobs, but=keep)
        for key in made - keep:
            intake.blobs.delete(key)


def _try(
    intake: Intake, album: Album, item: Item, state: State, name: str, file: Stored
) -> int | Photo:
    given = file.given[:400] if file.given != name else None
    item = item.model_copy(update={"name": name, "given": given})
    return albums.add(intake.redis, intake.settings, album.id, item, state)


def add_mask(intake: Intake, album: Album, form: Form) -> tuple[Photo, bool]:
    """The item that a mask belongs to, which runs again with it, and whether it does.

    Raises:
        InvalidField: no item, or more than one, has the name of the mask.
        JobFailed: its photograph was refused.
        JobNotFinished: it has not ended yet.
        MaskUnreadable, MaskSizeMismatch: the mask does not do; the item stays as it is.
    """
    keep: set[str] = set()
    try:
        if form.mask is None:
            raise InvalidField("Send an image, or the mask of one that is there.", field="image")
        if form.mask.key is None:
            raise InvalidField(f"The mask has {form.mask.size} bytes: too many.", field="mask")
        known = _of_name(intake, album, confined(form.mask.given))
        if known.item.job is None:
            raise JobFailed(f"The photograph of {known.item.name} could not be used: send it.")
        image = intake.blobs.get(known.item.job.image)
        params = album.defaults["params"]
        job = known.item.job.model_copy(
            update={
                "mask": form.mask.key,
                "mask_only": False,
                "auto_mask": "none",
                "model": known.item.job.model
                if not known.item.job.mask_only
                else params.get("model", intake.settings.model),
            }
        )
        job = judged(job, image, intake.blobs.get(form.mask.key), intake.settings)
        print_ = albums.fingerprint(sha256(image).digest(), form.mask.digest, job)
        if print_ == known.state.print and known.state.status not in ("failed", "canceled"):
            return known, False
        if known.state.status not in FINAL:
            raise JobNotFinished(f"{known.item.name} is {known.state.status}; try again then.")
        size = len(image) + form.mask.size
        item = known.item.model_copy(
            update={"job": job, "size": size, "detector": None, "reused": False}
        )
        _check_models(intake, [(item, State("queued"))])
        if not albums.replace(intake.redis, intake.settings, album.id, known, item, print_):
            raise JobNotFinished(f"{known.item.name} has just changed; try again.")
        keep.add(form.mask.key)
        now = albums.photo(intake.redis, intake.settings, album.id, known.number)
        if outcome := known.state.outcome:  # its files may be those of others too
            photos = albums.photos(intake.redis, album.id)
            used = {key for photo in photos for key in albums.blobs(photo)}
            for key in {outcome.result, outcome.mask} - {None, *used}:
                intake.blobs.delete(str(key))
        return now, True
    finally:
        form.forget(intake.blobs, but=keep)


def shared_mask(album: Album) -> set[str]:
    """The key of the mask that an open album has for all that come, if it has one."""
    mask = album.defaults["mask"]
    return {mask["key"]} if mask else set()


def _of_name(intake: Intake, album: Album, name: str) -> Photo:
    """The item of this name, or the only one that has it but for the suffix, or the folders."""
    if number := albums.named(intake.redis, album.id, name):
        return albums.photo(intake.redis, intake.settings, album.id, number)
    stem = albums.folded(str(PurePosixPath(name).with_suffix("")))
    path, last = [], []
    for photo in albums.photos(intake.redis, album.id):
        own = albums.folded(str(PurePosixPath(photo.item.name).with_suffix("")))
        path += [photo] if own == stem else []
        last += [photo] if PurePosixPath(own).name == stem else []
    for found in (path, last):
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidField(
                f"{len(found)} photographs have the name of this mask.", field="mask"
            )
    raise InvalidField(f"The album has no photograph named {name}.", field="mask")
