"""The endpoints of albums. What they take and answer stands in docs/api.md and docs/albums.md."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any, get_args
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from redis import Redis
from starlette.concurrency import run_in_threadpool

from inpaint import albums, catalogue
from inpaint.albums import Album, Item, Photo, State
from inpaint.errors import (
    AlbumUnusable,
    Expired,
    InpaintError,
    InputGone,
    InvalidField,
    JobCanceled,
    JobFailed,
    JobNotFinished,
    NotFound,
    QueueUnavailable,
    UnknownModel,
)
from inpaint.header import MEDIA_TYPES, probe
from inpaint.jobs import FINAL, Status

from .album_archive import archive
from .album_bodies import AlbumBody, ItemBody, ItemsBody
from .album_intake import FILES, AlbumForm, Form, Intake, Stored, job_of, judged
from .archives import confined
from .gateway import Gateway
from .problems import answer
from .routes import REFUSED
from .schemas import InpaintForm

MOST_ITEMS = 500  # of one page
SOME_ITEMS = 100
LOOK_SECONDS = 0.5  # between two looks for what has changed
HEARTBEAT_SECONDS = 15.0
SHOWN = 20  # refusals that an album without a usable photograph lists
ENDED = ("succeeded", "partial", "failed", "canceled")

router = APIRouter(responses={"4XX": REFUSED, "5XX": REFUSED})


def _form_schema(files: dict[str, Any], *forms: type[Any]) -> dict[str, Any]:
    """A multipart form for /openapi.json."""
    properties = dict(files)
    for form in forms:
        properties |= form.model_json_schema()["properties"]
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


BINARY = {"type": "string", "format": "binary"}
ALBUM_SCHEMA = _form_schema(
    {name: {"type": "array", "items": BINARY} if name.endswith("s") else BINARY for name in FILES}
    | {"manifest": {"type": "string"}},
    AlbumForm,
    InpaintForm,
)
ITEM_SCHEMA = _form_schema({"image": BINARY, "mask": BINARY}, InpaintForm)


def _query(*names: str) -> dict[str, Any]:
    """Parameters for /openapi.json: they are read by hand, so that refusals are problems."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
            for name in names
        ]
    }


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _redis(request: Request) -> Redis:
    redis: Redis = request.app.state.redis
    return redis


async def _intake(request: Request) -> Intake:
    gateway = _gateway(request)
    cards = await gateway.workers()
    held = catalogue.models(cards) | catalogue.detectors(cards)
    digests = {name: card.digest for name, card in held.items()}
    return Intake(gateway.settings, _redis(request), gateway.blobs, digests)


async def _album(request: Request, album_id: str) -> Album:
    settings = _gateway(request).settings
    return await run_in_threadpool(albums.load, _redis(request), settings, album_id)


async def _shown(request: Request, album_id: str, status: int = 200) -> Response:
    """The album as it stands."""
    body = await _body(request, await _album(request, album_id))
    headers = {"Location": f"/albums/{album_id}"} if status == 202 else {}
    return JSONResponse(body.model_dump(mode="json"), status, headers)


async def _body(request: Request, album: Album) -> AlbumBody:
    unfinished = album.counts["queued"] + album.counts["running"]
    rate = sum(card.rate for card in await _gateway(request).workers()) if unfinished else 0.0
    eta = math.ceil(unfinished * album.sharing / rate) if rate else None
    return AlbumBody.of(album, eta)


@router.post("/albums", status_code=202, response_model=AlbumBody, openapi_extra=ALBUM_SCHEMA)
async def create_album(request: Request) -> Response:
    """Begin an album: photographs or a zip of them, or, with `expect`, an open one without any."""
    await _gateway(request).ready()
    intake = await _intake(request)
    form = await intake.receive(request)
    try:
        album_id = await run_in_threadpool(_create, intake, form)
    except Unusable as refusal:
        return answer(refusal, request.scope, members={"items": refusal.items})
    return await _shown(request, album_id, 202)


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


def _create(intake: Intake, form: Form) -> str:
    """Judge what came, and make the album of it; nothing stays of one that is refused."""
    photos: list[tuple[Item, State]] = []
    keep: set[str] = set()
    is_open = form.album.expect is not None
    try:
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
        intake.forget(form, but=keep)
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


@router.post(
    "/albums/{album_id}/items",
    status_code=202,
    response_model=ItemBody,
    responses={200: {"description": "It was there already.", "model": ItemBody}},
    openapi_extra=ITEM_SCHEMA,
)
async def add_item(album_id: str, request: Request) -> Response:
    """Add one photograph; a mask alone runs the item of its name again."""
    _gateway(request).refuse_when_stopping()
    album = await _album(request, album_id)
    intake = await _intake(request)
    form = await intake.receive(request, single=True)
    add = _add_photo if form.images else _add_mask
    photo, is_new = await run_in_threadpool(add, intake, album, form)
    body = ItemBody.of(album_id, photo).model_dump(mode="json")
    return JSONResponse(body, 202 if is_new else 200)


def _add_photo(intake: Intake, album: Album, form: Form) -> tuple[Photo, bool]:
    """The item that a photograph becomes, or is already."""
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
        intake.forget(form, but=keep)
        for key in made - keep:
            intake.blobs.delete(key)


def _try(
    intake: Intake, album: Album, item: Item, state: State, name: str, file: Stored
) -> int | Photo:
    given = file.given[:400] if file.given != name else None
    item = item.model_copy(update={"name": name, "given": given})
    return albums.add(intake.redis, intake.settings, album.id, item, state)


def _add_mask(intake: Intake, album: Album, form: Form) -> tuple[Photo, bool]:
    """The item that a mask belongs to, which runs again with it."""
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
        print_ = albums.fingerprint(Stored.sha(image), form.mask.digest, job)
        if print_ == known.state.print and known.state.status not in ("failed", "canceled"):
            return known, False
        if known.state.status not in FINAL:
            raise JobNotFinished(f"{known.item.name} is {known.state.status}; try again then.")
        size = len(image) + form.mask.size
        item = known.item.model_copy(update={"job": job, "size": size, "reused": False})
        _check_models(intake, [(item, State("queued"))])
        if not albums.replace(intake.redis, intake.settings, album.id, known, item, print_):
            raise JobNotFinished(f"{known.item.name} has just changed; try again.")
        keep.add(form.mask.key)
        now = albums.photo(intake.redis, intake.settings, album.id, known.number)
        for key in set(albums.blobs(known)) - set(albums.blobs(now)) - _shared(album):
            intake.blobs.delete(key)
        return now, True
    finally:
        intake.forget(form, but=keep)


def _shared(album: Album) -> set[str]:
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


@router.get("/albums/{album_id}", response_model=AlbumBody)
async def read_album(album_id: str, request: Request) -> Response:
    """The album as it stands."""
    return await _shown(request, album_id)


@router.get(
    "/albums/{album_id}/items",
    response_model=ItemsBody,
    openapi_extra=_query("status", "cursor", "limit"),
)
async def read_items(album_id: str, request: Request) -> Response:
    """Items in input order."""
    status = _status(request)
    cursor, limit = _number(request, "cursor", 0), _number(request, "limit", SOME_ITEMS)
    if not 1 <= limit <= MOST_ITEMS:
        raise InvalidField(f"limit is {limit}; 1 to {MOST_ITEMS} is accepted.", field="limit")
    await _album(request, album_id)

    def page() -> tuple[list[Photo], bool]:
        found: list[Photo] = []
        for photo in albums.photos(_redis(request), album_id, cursor + 1):
            if status is None or photo.state.status == status:
                if len(found) == limit:
                    return found, True
                found.append(photo)
        return found, False

    found, more = await run_in_threadpool(page)
    link = None
    if more:
        link = f"/albums/{album_id}/items?cursor={found[-1].number}&limit={limit}"
        link += f"&status={status}" if status else ""
    body = ItemsBody(items=[ItemBody.of(album_id, photo) for photo in found], next=link)
    headers = {"Link": f'<{link}>; rel="next"'} if link else {}
    return JSONResponse(body.model_dump(mode="json"), headers=headers)


@router.get("/albums/{album_id}/items/{number}", response_model=ItemBody)
async def read_item(album_id: str, number: str, request: Request) -> Response:
    """One item."""
    photo = await _photo(request, album_id, number)
    return JSONResponse(ItemBody.of(album_id, photo).model_dump(mode="json"))


@router.get("/albums/{album_id}/items/{number}/result", response_class=Response)
async def read_item_result(album_id: str, number: str, request: Request) -> Response:
    """The restored picture of an item."""
    photo = await _photo(request, album_id, number)
    outcome = photo.state.outcome
    if photo.state.status not in FINAL:
        raise JobNotFinished(f"The item is {photo.state.status}; ask again in a moment.")
    if photo.state.status != "succeeded" or outcome is None or outcome.result is None:
        refusal: InpaintError = JobCanceled("The item was canceled: it has no result.")
        if outcome and outcome.problem:
            refusal = JobFailed(f"The item ended in a problem: {outcome.problem.detail}")
        item = ItemBody.of(album_id, photo).model_dump(mode="json")
        return answer(refusal, request.scope, members={"item": item})
    return await _file(request, outcome.result, outcome.media_type, photo.item.name)


@router.get("/albums/{album_id}/items/{number}/mask", response_class=Response)
async def read_item_mask(album_id: str, number: str, request: Request) -> Response:
    """The mask of an item: as it was found and filled, or else as it was sent."""
    photo = await _photo(request, album_id, number)
    job, outcome = photo.item.job, photo.state.outcome
    key = (outcome and outcome.mask) or (job and job.mask)
    if not key:
        raise NotFound("The item has no mask.")
    return await _file(request, key, None, str(PurePosixPath(photo.item.name).with_suffix("")))


async def _photo(request: Request, album_id: str, number: str) -> Photo:
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        raise NotFound("Items have numbers, from 1.")
    settings = _gateway(request).settings
    return await run_in_threadpool(albums.photo, _redis(request), settings, album_id, int(number))


async def _file(request: Request, key: str, media_type: str | None, name: str) -> Response:
    headers = {
        "ETag": f'"{key}"',
        "Cache-Control": "private, immutable",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(PurePosixPath(name).name)}",
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    gateway = _gateway(request)
    try:
        data = await run_in_threadpool(gateway.blobs.get, key)
    except InputGone as error:
        raise Expired("The file is no longer stored.") from error
    if media_type is None:
        media_type = MEDIA_TYPES[probe(data, gateway.settings.limits).format]
    return Response(data, 200, headers, media_type)


@router.get(
    "/albums/{album_id}/events",
    response_class=Response,
    responses={
        200: {"description": "Events.", "content": {"text/event-stream": {}}},
        204: {"description": "All was said: the album has ended."},
    },
)
async def read_events(album_id: str, request: Request) -> Response:
    """What happens to the album, as it happens: an event for each item that ends."""
    last = request.headers.get("last-event-id", "0")
    ended = last.endswith(".end")
    since = last.removesuffix(".end")
    if not since.isascii() or not since.isdigit() or len(since) > 9:
        raise InvalidField("Last-Event-ID is none that was given out here.")
    album = await _album(request, album_id)
    if ended and album.status in ENDED and album.changes == int(since):
        return Response(status_code=204)  # which ends an EventSource
    return EventSourceResponse(
        _events(request, album_id, int(since)),
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(request: Request, album_id: str, since: int) -> AsyncIterator[bytes]:
    """Events until the album has ended, is deleted, or the gateway stops."""
    gateway, redis = _gateway(request), _redis(request)
    clock = asyncio.get_running_loop().time
    said, shown = clock(), ""
    while not gateway.stopping:
        try:
            found = await run_in_threadpool(albums.changes, redis, album_id, since)
            for number, status in found:
                since += 1
                photo = await run_in_threadpool(
                    albums.photo, redis, gateway.settings, album_id, number
                )
                body = ItemBody.of(album_id, photo).model_dump(mode="json")
                text = json.dumps(body | {"status": status})
                yield format_sse_event(data_str=text, event="item", id=str(since))
                said = clock()
            album = await _album(request, album_id)
            if album.changes != since:
                continue
            facts = (await _body(request, album)).model_dump_json()
            if album.status in ENDED:
                yield format_sse_event(data_str=facts, event=album.status, id=f"{since}.end")
                return
            now = f"{album.status} {album.counts}"
            if now != shown:
                yield format_sse_event(data_str=facts, event="album")
                said, shown = clock(), now
        except QueueUnavailable:  # who listens need not know: it goes on when Redis is back
            pass
        except (NotFound, Expired):
            return
        if clock() - said > HEARTBEAT_SECONDS:
            yield KEEPALIVE_COMMENT
            said = clock()
        await asyncio.sleep(LOOK_SECONDS)


@router.get(
    "/albums/{album_id}/archive",
    response_class=Response,
    responses={200: {"description": "The album.", "content": {"application/zip": {}}}},
    openapi_extra=_query("status"),
)
async def read_archive(album_id: str, request: Request) -> Response:
    """All results so far in one zip, with a report of all items."""
    status = _status(request)
    album = await _album(request, album_id)
    name = confined(album.name) if album.name else f"album-{album_id}"
    return StreamingResponse(
        archive(_redis(request), _gateway(request).blobs, album, status),
        media_type="application/zip",
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.zip",
            "Cache-Control": "private, no-store",
        },
    )


@router.post("/albums/{album_id}/close", response_model=AlbumBody)
async def close_album(album_id: str, request: Request) -> Response:
    """Take no more photographs."""
    settings = _gateway(request).settings
    await run_in_threadpool(albums.close, _redis(request), settings, album_id)
    return await _shown(request, album_id)


@router.post("/albums/{album_id}/cancel", status_code=202, response_model=AlbumBody)
async def cancel_album(album_id: str, request: Request) -> Response:
    """End all items that have not ended; those that have stay."""
    settings = _gateway(request).settings
    await run_in_threadpool(albums.cancel, _redis(request), settings, album_id)
    return await _shown(request, album_id, 202)


@router.post("/albums/{album_id}/retry", status_code=202, response_model=AlbumBody)
async def retry_album(album_id: str, request: Request) -> Response:
    """Run again what failed or was canceled."""
    gateway = _gateway(request)
    gateway.refuse_when_stopping()
    await run_in_threadpool(albums.retry, _redis(request), gateway.settings, album_id)
    return await _shown(request, album_id, 202)


@router.delete("/albums/{album_id}", status_code=204)
async def delete_album(album_id: str, request: Request) -> Response:
    """Forget the album and all its files; what has not ended is canceled first."""
    gateway, redis = _gateway(request), _redis(request)
    album = await _album(request, album_id)

    def forget() -> None:
        keys = albums.forget(redis, gateway.settings, album_id)
        for key in {*keys, *_shared(album)}:
            gateway.blobs.delete(key)

    await run_in_threadpool(forget)
    return Response(status_code=204)


def _status(request: Request) -> Status | None:
    """The query's `status`."""
    status = request.query_params.get("status") or None
    if status is not None and status not in get_args(Status):
        raise InvalidField(
            f"status is {status[:32]!r}; {', '.join(get_args(Status))} are accepted.",
            field="status",
        )
    return status  # type: ignore[return-value]  # one of them


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidField(f"{name} is {text[:32]!r}; a whole number is accepted.", field=name)
    return int(text)
