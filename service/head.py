"""`HEAD`: whatever `GET` can be asked for, without its body."""

from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Told(Exception):
    """The head is out: no body is to be made."""


class Head:
    """ASGI middleware that has a `HEAD` answered as a `GET`, up to where the body would begin."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a `HEAD`; anything else goes on as it is."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def head(message: Message) -> None:
            await send(message)
            await send({"type": "http.response.body"})
            raise _Told

        with suppress(_Told):
            await self.app({**scope, "method": "GET"}, receive, head)
