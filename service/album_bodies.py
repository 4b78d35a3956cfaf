"""Albums and their items, as answers show them."""

from datetime import datetime
from typing import Any

from inpaint.albums import Album, AlbumStatus, Photo
from inpaint.jobs import Status

from .schemas import Body, ImageFacts, JobProblem, MaskFacts, image_facts, job_problem, mask_facts


class ItemBody(Body):
    """A photograph of an album."""

    number: int  # from 1, in input order
    name: str  # in the album and in its archive, but for the suffix of another output format
    given_name: str | None  # that it came under, where that is another
    status: Status
    job: str | None  # its id, while the queue knows it
    bytes: int  # of its uploads
    model: str | None
    model_digest: str | None
    mask: MaskFacts | None
    image: ImageFacts | None
    unchanged: bool  # no damage was found: the result is the upload, byte for byte
    reused: bool  # the result of an earlier item with the same content
    warning: str | None
    seconds: dict[str, float] | None
    error: JobProblem | None
    links: dict[str, str]

    @classmethod
    def of(cls, album: str, photo: Photo) -> "ItemBody":
        """What is shown of a photograph."""
        item, state = photo.item, photo.state
        outcome = state.outcome
        self = f"/albums/{album}/items/{photo.number}"
        links = {}
        if state.status == "succeeded":
            links["result"] = f"{self}/result"
            if outcome and (outcome.mask or (item.job and item.job.mask)):
                links["mask"] = f"{self}/mask"
        elif state.status in ("queued", "running"):
            links["job"] = f"/jobs/{state.job}"
        return cls(
            number=photo.number,
            name=item.name,
            given_name=item.given,
            status=state.status,
            job=state.job,
            bytes=item.size,
            model=item.job.model if item.job else None,
            model_digest=outcome.digest if outcome else None,
            mask=mask_facts(outcome),
            image=image_facts(outcome),
            unchanged=bool(outcome and outcome.unchanged),
            reused=item.reused,
            warning=outcome.warning if outcome else None,
            seconds=(outcome.seconds or None) if outcome else None,
            error=job_problem(outcome) if state.status == "failed" else None,
            links=links,
        )


class AlbumBody(Body):
    """An album."""

    id: str
    name: str
    status: AlbumStatus
    counts: dict[str, int]  # of items: total, and by state
    expect: int | None
    created_at: datetime
    expires_at: datetime  # unless something happens to it before
    eta_seconds: int | None  # until all that it has is done, about, where it can be told
    bytes: int  # of uploads
    params: dict[str, Any]  # what was asked for all items
    warnings: list[dict[str, str]]  # files that belong to no item: code, name, detail
    links: dict[str, str]

    @classmethod
    def of(cls, album: Album, eta: int | None) -> "AlbumBody":
        """What is shown of an album."""
        self = f"/albums/{album.id}"
        links = {"self": self} | {name: f"{self}/{name}" for name in ("items", "events", "archive")}
        if album.status == "open":
            links["close"] = f"{self}/close"
        if album.counts["queued"] + album.counts["running"]:
            links["cancel"] = f"{self}/cancel"
        if album.counts["failed"] + album.counts["canceled"]:
            links["retry"] = f"{self}/retry"
        return cls(
            id=album.id,
            name=album.name,
            status=album.status,
            counts={"total": album.total} | {str(state): n for state, n in album.counts.items()},
            expect=album.expect,
            created_at=album.created_at,
            expires_at=album.expires_at,
            eta_seconds=eta,
            bytes=album.bytes,
            params=album.defaults["params"],
            warnings=album.warnings,
            links=links,
        )


class ItemsBody(Body):
    """Items of an album in input order, and where the next are."""

    items: list[ItemBody]
    next: str | None
