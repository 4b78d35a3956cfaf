"""LitServe with our network, engine and picture code: the peer of `inpaint bench serve`.

    python -m worker.peer PORT

Only the serving differs. Chosen in its favour, by trial: batches of at most 16 pictures as in our
worker, given to the engine in the portions that suit it; multipart uploads and raw bytes back,
not base64 in JSON; one process that answers HTTP.
"""

import sys
from typing import Any

import litserve  # type: ignore[import-untyped]  # it ships no types
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from inpaint.highres import Pixels
from inpaint.settings import load

from .forming import Pass
from .pipeline import Restoration
from .standins import BATCH, OPTIONS, open_zoo

BATCH_SECONDS = 0.0  # waited for a batch to fill: longer waits were slower, at 1 client and at 32
ANSWER_SECONDS = 120

Opened = tuple[Restoration, Pass]
Batch = tuple[list[Opened], NDArray[np.uint8], NDArray[np.bool_]]


class Peer(litserve.LitAPI):  # type: ignore[misc]  # untyped, see above
    """What LitServe calls, in this order, for each batch."""

    def setup(self, device: str) -> None:
        """Load the model, in the process that runs it."""
        self._settings = load()
        self._zoo = open_zoo(self._settings)
        self._filler: Any = self._zoo.filler(self._settings.model)

    def decode_request(self, request: Request) -> Opened:
        """Decode and plan; the request is the form, whatever its annotation says."""
        form: Any = request
        image, mask = (form[name].file.read() for name in ("image", "mask"))
        settings = self._settings
        restoration = Restoration(self._zoo, settings.model, OPTIONS, settings.limits)
        restoration.take(image, mask)
        return restoration, restoration.open()

    def batch(self, inputs: list[Opened]) -> Batch:
        """Stack the windows of all pictures."""
        read = [stage.plan.inputs(stage.plan.windows) for _, stage in inputs]
        pixels, holes = (np.concatenate(parts) for parts in zip(*read, strict=True))
        return inputs, pixels, holes

    def predict(self, batch: Batch) -> list[tuple[Opened, list[Pixels]]]:
        """Fill the windows, in portions as large as the engine wants them."""
        inputs, pixels, holes = batch
        size = max(1, self._filler.batch_pixels // (pixels.shape[1] * pixels.shape[2]))
        fills = iter(
            fill
            for start in range(0, len(pixels), size)
            for fill in self._filler(pixels[start : start + size], holes[start : start + size])
        )
        return [(opened, [next(fills) for _ in opened[1].plan.windows]) for opened in inputs]

    def unbatch(
        self, output: list[tuple[Opened, list[Pixels]]]
    ) -> list[tuple[Opened, list[Pixels]]]:
        """Return what `predict` has divided already."""
        return output

    def encode_response(self, output: tuple[Opened, list[Pixels]]) -> Response:
        """Lay the fills and encode."""
        (restoration, stage), fills = output
        for fill in fills:
            stage.canvas.lay(fill)
        restoration.close(stage.canvas.pixels(), infer=0, lay=0)
        restored = restoration.restored
        assert restored is not None
        return Response(restored.data, media_type=restored.media_type)


def main(port: int) -> None:
    """Answer `POST /predict` until a signal ends it."""
    api = Peer(max_batch_size=BATCH, batch_timeout=BATCH_SECONDS)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=1, timeout=ANSWER_SECONDS
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
