"""The endpoints of albums. What they take and answer stands in docs/api.md and docs/albums.md."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from redis import Redis
from starlette.concurrency import run_in_threadpool

from inpaint import albums, catalogue
from inpaint.albums import Album, Photo
from inpaint.errors import (
    Expired,
    InpaintError,
    InputGone,
    InvalidField,
    JobCanceled,
    JobFailed,
    JobNotFinished,
    NotFound,
    QueueUnavailable,
)
from inpaint.header import MEDIA_TYPES, probe
from inpaint.jobs import FINAL, Status

from .album_archive import archive, disposition, suffixed
from .album_bodies import AlbumBody, ItemBody, ItemsBody
from .album_form import FILES, SINGLE, AlbumForm, receive
from .album_intake import Intake
from .album_uploads import Unusable, add_mask, add_photo, create, shared_mask
from .archives import confined
from .gateway import Gateway
from .problems import answer
from .routes import REFUSED
from .schemas import InpaintForm

MOST_ITEMS = 500  # of one page
SOME_ITEMS = 100
LOOK_SECONDS = 0.5  # between two looks for what has changed
HEARTBEAT_SECONDS = 15.0
ENDED = ("succeeded", "partial", "failed", "canceled")

router = APIRouter(responses={"4XX": REFUSED, "5XX": REFUSED})


def _form_schema(files: dict[str, Any], *forms: type[Any]) -> dict[str, Any]:
    """A multipart form for /openapi.json."""
    properties = dict(files)
    for form in forms:
        properties |= form.model_json_schema()["properties"]
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


BINARY = {"type": "string", "format": "binary"}
ALBUM_SCHEMA = _form_schema(
    {name: {"type": "array", "items": BINARY} if name.endswith("s") else BINARY for name in FILES}
    | {"manifest": {"type": "string"}},
    AlbumForm,
    InpaintForm,
)
ITEM_SCHEMA = _form_schema(dict.fromkeys(SINGLE, BINARY), InpaintForm)


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
    form = await receive(request, intake.settings, intake.blobs)
    try:
        album_id = await run_in_threadpool(create, intake, form)
    except Unusable as refusal:
        return answer(refusal, request.scope, members={"items": refusal.items})
    return await _shown(request, album_id, 202)


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
    form = await receive(request, intake.settings, intake.blobs, single=True)
    add = add_photo if form.images else add_mask
    photo, is_new = await run_in_threadpool(add, intake, album, form)
    body = ItemBody.of(album_id, photo).model_dump(mode="json")
    return JSONResponse(body, 202 if is_new else 200)


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
    return await _file(request, key, None, photo.item.name)


async def _photo(request: Request, album_id: str, number: str) -> Photo:
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        raise NotFound("Items have numbers, from 1.")
    settings = _gateway(request).settings
    return await run_in_threadpool(albums.photo, _redis(request), settings, album_id, int(number))


async def _file(request: Request, key: str, media_type: str | None, name: str) -> Response:
    headers = {"ETag": f'"{key}"', "Cache-Control": "private, immutable"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    gateway = _gateway(request)
    try:
        data = await run_in_threadpool(gateway.blobs.get, key)
    except InputGone as error:
        raise Expired("The file is no longer stored.") from error
    if media_type is None:
        media_type = MEDIA_TYPES[probe(data, gateway.settings.limits).format]
    headers["Content-Disposition"] = disposition("inline", suffixed(name, media_type))
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
        _events(request, album_id, min(int(since), album.changes)),
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
    name = confined(album.name.replace("/", "_")) if album.name else f"album-{album_id}"
    return StreamingResponse(
        archive(_redis(request), _gateway(request).blobs, album, status),
        media_type="application/zip",
        headers={
            "Content-Disposition": disposition("attachment", f"{name}.zip"),
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
        for key in {*keys, *shared_mask(album)}:
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
