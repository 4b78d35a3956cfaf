"""uvicorn's HTTP protocol, which bounds bodies by flow control, with a bound on headers too."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024  # of a request line and its headers, and of what follows a chunked body


class BoundedHead(HttpToolsProtocol):
    """Refuses who sends on and on without beginning a body or ending a request."""

    _pending = 0  # bytes since the last part of a request that was complete
    _got_on = False

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it only makes an endless head longer."""
        self._got_on = False
        super().data_received(data)
        self._pending = 0 if self._got_on else self._pending + len(data)
        if self._pending > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Request header too long.")

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._got_on = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._got_on = True
        super().on_message_complete()
