"""Every refusal, by name. Each class has a stable `code`; texts may improve, codes may not.

    InpaintError
    ├─ MalformedMultipart     malformed-multipart      400
    ├─ BadHeader              bad-header               400
    ├─ NotFound               not-found                404
    ├─ MethodNotAllowed       method-not-allowed       405
    ├─ Expired                expired                  410
    ├─ JobNotFinished         job-not-finished         409
    ├─ JobFailed              job-failed               409
    ├─ JobCanceled            job-canceled             409
    ├─ JobFinal               job-final                409
    ├─ AlbumClosed            album-closed             409
    ├─ FileTooLarge           file-too-large           413
    ├─ AlbumTooLarge          album-too-large          413
    ├─ TooManyPixels          too-many-pixels          413
    ├─ UnsupportedImage       unsupported-image-type   415
    ├─ InvalidField           invalid-field            422
    ├─ ImageUnreadable        image-unreadable         422
    ├─ ImageTooSmall          image-too-small          422
    ├─ MaskMissing            mask-missing             422
    ├─ MaskUnreadable         mask-unreadable          422
    ├─ MaskSizeMismatch       mask-size-mismatch       422
    ├─ MaskEmpty              mask-empty               422
    ├─ MaskFull               mask-full                422
    ├─ UnknownModel           unknown-model            422
    ├─ ArchiveUnreadable      archive-unreadable       422
    ├─ AlbumUnusable          album-unusable           422
    ├─ RateLimited            rate-limited             429
    ├─ Internal               internal                 500
    ├─ ModelFailed            model-failed             500 (job)
    ├─ OutOfMemory            out-of-memory            500 (job)
    ├─ TimedOut               timed-out                500 (job)
    ├─ WorkerLost             worker-lost              500 (job)
    ├─ InputGone              input-gone               500 (job)
    ├─ QueueFull              queue-full               503
    ├─ QueueUnavailable       queue-unavailable        503
    ├─ NoWorker               no-worker                503
    ├─ StorageUnavailable     storage-unavailable      503
    ├─ ShuttingDown           shutting-down            503
    ├─ BadCheckpoint          bad-checkpoint           (worker start and commands only)
    ├─ BadRecipe              bad-recipe               (commands only)
    ├─ BadData                bad-data                 (commands only)
    └─ StartFailed            start-failed             (commands only)

The HTTP status of each code stands in `service/problems.py`.
"""


class InpaintError(Exception):
    """A refusal that a user can act on.

    Attributes:
        code: the stable name of the problem.
        detail: one or two sentences: what was seen and what is accepted.
        field: the form field or option at fault, if there is one.
        retry_after: seconds until it may be accepted, where that can be told.
    """

    code = "internal"
    retry_after: int | None = None

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class MalformedMultipart(InpaintError):
    """The body is not the multipart form that its header promises."""

    code = "malformed-multipart"


class BadHeader(InpaintError):
    """A request header that we act on cannot be understood."""

    code = "bad-header"


class NotFound(InpaintError):
    """No such job or path."""

    code = "not-found"


class MethodNotAllowed(InpaintError):
    """The path exists, but not for this method; the header `Allow` lists those it has."""

    code = "method-not-allowed"


class Expired(InpaintError):
    """The job existed; its record or result is past its time to live."""

    code = "expired"


class JobNotFinished(InpaintError):
    """The result was asked for before the job ended."""

    code = "job-not-finished"


class JobFailed(InpaintError):
    """The result was asked for and the job ended in a problem."""

    code = "job-failed"


class JobCanceled(InpaintError):
    """The result was asked for and the job was canceled."""

    code = "job-canceled"


class JobFinal(InpaintError):
    """The job has ended already: it can no longer be canceled."""

    code = "job-final"


class AlbumClosed(InpaintError):
    """The album takes no more photographs: it was closed, canceled, or has all it expected."""

    code = "album-closed"


class FileTooLarge(InpaintError):
    """More bytes than the limit."""

    code = "file-too-large"


class AlbumTooLarge(InpaintError):
    """More files or bytes than an album, or one upload of it, may have; or a zip that swells."""

    code = "album-too-large"


class TooManyPixels(InpaintError):
    """More pixels, or a longer side, than the limit."""

    code = "too-many-pixels"


class UnsupportedImage(InpaintError):
    """A file type, colour mode or depth that we do not take; the detail names what was found."""

    code = "unsupported-image-type"


class InvalidField(InpaintError):
    """A form field that is missing, unknown or has an impossible value."""

    code = "invalid-field"


class ImageUnreadable(InpaintError):
    """The image's header is fine and its data is not (truncated, damaged)."""

    code = "image-unreadable"


class ImageTooSmall(InpaintError):
    """A side is shorter than the limit."""

    code = "image-too-small"


class MaskMissing(InpaintError):
    """No mask, and the image has no transparency to take its place."""

    code = "mask-missing"


class MaskUnreadable(InpaintError):
    """The mask is not a picture, or its data is damaged."""

    code = "mask-unreadable"


class MaskSizeMismatch(InpaintError):
    """Image and mask differ in size; the detail gives both."""

    code = "mask-size-mismatch"


class MaskEmpty(InpaintError):
    """No pixel is asked to be filled."""

    code = "mask-empty"


class MaskFull(InpaintError):
    """Every pixel is asked to be filled: nothing is known."""

    code = "mask-full"


class UnknownModel(InpaintError):
    """No worker holds a model of this name; the detail lists the names."""

    code = "unknown-model"


class ArchiveUnreadable(InpaintError):
    """The archive is not a zip file, or its directory is damaged."""

    code = "archive-unreadable"


class AlbumUnusable(InpaintError):
    """No photograph of an album can be used; the detail says why of each, as far as it goes."""

    code = "album-unusable"


class RateLimited(InpaintError):
    """This client has as many unfinished jobs as one client may have."""

    code = "rate-limited"


class Internal(InpaintError):
    """A fault of ours."""

    code = "internal"


class ModelFailed(InpaintError):
    """The generator raised while it filled this picture."""

    code = "model-failed"


class OutOfMemory(InpaintError):
    """One window of the picture did not fit into the device's memory, alone."""

    code = "out-of-memory"


class TimedOut(InpaintError):
    """The job ran longer than the limit."""

    code = "timed-out"


class WorkerLost(InpaintError):
    """Each worker that ran the job was lost while it did, as often as is allowed."""

    code = "worker-lost"


class InputGone(InpaintError):
    """The upload was deleted or expired before the job's turn."""

    code = "input-gone"


class QueueFull(InpaintError):
    """As many jobs wait as are allowed to."""

    code = "queue-full"


class QueueUnavailable(InpaintError):
    """Redis is away or full."""

    code = "queue-unavailable"


class NoWorker(InpaintError):
    """No worker with a loaded model reports ready."""

    code = "no-worker"


class StorageUnavailable(InpaintError):
    """Pictures cannot be stored or read: their folder or server is full, or away."""

    code = "storage-unavailable"


class ShuttingDown(InpaintError):
    """The gateway is stopping."""

    code = "shutting-down"


class BadCheckpoint(InpaintError):
    """A checkpoint that cannot be served; the detail names the file and the reason."""

    code = "bad-checkpoint"


class BadRecipe(InpaintError):
    """A training recipe with an unknown key or an impossible value."""

    code = "bad-recipe"


class BadData(InpaintError):
    """Training or evaluation data that cannot be used."""

    code = "bad-data"


class StartFailed(InpaintError):
    """The service cannot start: a busy port, an unusable data folder, no server binary."""

    code = "start-failed"
