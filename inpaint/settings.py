"""What can be set: `INPAINT_*` and `REDIS_URL`, read once into one frozen object.

This is the only place that reads the environment. A command calls `load` and passes the result
down.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import StartFailed
from .header import Limits

MIB = 1024 * 1024  # bytes


class Settings(BaseSettings):
    """Every setting; its variable is `INPAINT_` and the name in capitals, but for `REDIS_URL`."""

    model_config = SettingsConfigDict(env_prefix="INPAINT_", frozen=True, populate_by_name=True)

    # where things are
    data: Path = Path("data")  # blobs and, when embedded, Redis's own files
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    blobs: str | None = None  # redis://… for hosts without a shared disk; None: a folder of `data`
    redis_bytes: int = Field(default=512 * MIB, ge=32 * MIB)  # memory of the embedded server
    checkpoints: Path | None = None  # a folder of checkpoints beside the shipped ones

    # the gateway
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    wait_seconds: float = Field(default=30, ge=0)  # how long POST /inpaint waits by default
    max_wait_seconds: float = Field(default=60, ge=0)  # and at most, whatever `Prefer` asks
    queue_limit: int = Field(default=1000, ge=1)  # unfinished jobs of one lane
    queue_bytes: int = Field(default=4096 * MIB, ge=1)  # uploads of unfinished jobs, all together
    client_limit: int = Field(default=500, ge=1)  # unfinished jobs of one client

    # what is accepted
    max_file_bytes: int = Field(default=32 * MIB, ge=1)  # per file
    max_pixels: int = Field(default=40_000_000, ge=1)  # height x width
    min_side: int = Field(default=16, ge=1)  # pixels
    max_side: int = Field(default=16_384, ge=1)  # pixels
    album_files: int = Field(default=2000, ge=1)  # photographs of one album
    album_bytes: int = Field(default=20_480 * MIB, ge=1)  # of their uploads, all together
    album_request_bytes: int = Field(default=2048 * MIB, ge=1)  # of one POST /albums

    # jobs
    job_timeout_seconds: int = Field(default=120, ge=1)
    result_ttl_seconds: int = Field(default=86_400, ge=1)  # how long jobs and their files are kept

    lease_seconds: float = Field(default=5, ge=0.5, le=3600)  # of silence: then a worker is lost
    max_lost: int = Field(default=3, ge=0)  # a job fails once it has lost more workers than this
    stall_seconds: float = Field(default=120, gt=0, le=3600)  # of one stage: then its worker ends

    # the worker
    model: str = "aotgan-compact-256"  # used when a request names none
    models: Annotated[tuple[str, ...] | None, NoDecode] = None  # loaded at start; None: all found
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    engine: Literal["auto", "openvino", "torch"] = "auto"
    batch_seconds: float = Field(default=0.05, gt=0, le=3600)  # of batches beside new requests

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Take names divided by commas; nothing at all means every model that is found."""
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip()) or None

    @field_validator("redis_url", "blobs")
    @classmethod
    def _scheme(cls, url: str | None) -> str | None:
        """Refuse what is no address of a server before anything is started."""
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must begin with redis://, rediss:// or unix://")
        return url

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.wait_seconds > self.max_wait_seconds:
            raise ValueError("wait_seconds is more than max_wait_seconds")
        if self.queue_bytes < 2 * self.max_file_bytes:
            raise ValueError("queue_bytes is less than two files of max_file_bytes: none would fit")
        if self.min_side > self.max_side:
            raise ValueError("min_side is more than max_side")
        return self

    @property
    def limits(self) -> Limits:
        """What is accepted, for those who read pictures: gateway and worker alike."""
        return Limits(
            max_bytes=self.max_file_bytes,
            max_pixels=self.max_pixels,
            min_side=self.min_side,
            max_side=self.max_side,
        )

    @property
    def redis(self) -> str:
        """The server's URL: as set, else Redis's usual port on this machine."""
        return self.redis_url or "redis://127.0.0.1:6379/0"

    @property
    def blob_folder(self) -> Path:
        """The folder of uploads and results; gateways and workers share it."""
        return self.data / "blobs"

    @property
    def blob_seconds(self) -> int:
        """How long a blob is kept: as long as its job, with room for the time the job takes."""
        return self.result_ttl_seconds + 2 * self.job_timeout_seconds

    @property
    def redis_folder(self) -> Path:
        """The folder of the embedded server."""
        return self.data / "redis"


def load(overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the environment; `overrides` (from the command line, by field name) win.

    Raises:
        StartFailed: naming each setting that cannot be used, and why.
    """
    try:
        return Settings.model_validate(dict(overrides or {}))
    except ValidationError as error:
        faults = (f"{_variable(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        raise StartFailed("settings: " + "; ".join(faults)) from error


def _variable(place: tuple[int | str, ...]) -> str:
    """The environment variable of a field, or of the whole."""
    name = str(place[0]) if place else ""
    return "REDIS_URL" if name.upper() == "REDIS_URL" else f"INPAINT_{name.upper()}"
