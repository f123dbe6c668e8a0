"""Who is let in: so many requests at a time, so many bytes each, so long to bring them."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from mfkd.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FRAME = 65_536
"""Bytes that a form may have around its picture."""
IDLE = 1.0
"""Seconds for which a client that has its answer may pause before its connection is closed."""


class Admission:
    """Stands before an application and counts the uploads that it holds, without keeping those that it sends away.

    Args:
        app: the application.
        limits: see there; a picture that is too large is refused when its first byte too many arrives, or at once
            where the client tells its size.
    """

    def __init__(self, app: "ASGIApp", limits: Limits) -> None:
        self.app, self.limits = app, limits
        self.most = limits.at_once + limits.waiting
        self.held = 0

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Let a request through, or answer 403, 413 or 503 in its place."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        told = headers.get(b"content-length", b"0")
        refused = None
        if _is_foreign(headers):
            refused = JSONResponse(
                {"detail": "A page of another site has sent this; open the page of the service."}, 403
            )
        elif told.isdigit() and int(told) > self.limits.size + FRAME:
            refused = JSONResponse({"detail": too_large(self.limits)}, 413)
        elif self.held >= self.most:
            text = "Too many pictures are waiting; try again in a second."
            refused = JSONResponse({"detail": text}, 503, {"Retry-After": "1"})
        upload = _Upload(self.limits, receive, send)
        if refused is not None:
            await refused(scope, receive, upload.send)
            return
        self.held += 1
        try:
            await self.app(scope, upload.receive, upload.send)
        except asyncio.CancelledError:  # the server ends, and has waited for this one long enough
            await JSONResponse({"detail": "The service is being stopped."}, 503)(scope, receive, send)
        finally:
            self.held -= 1


class _Upload:
    """One request, whose bytes are counted while they come.

    An answer to a client that is still sending gets lost where the connection is then closed, so what nobody has read
    is thrown away first, as long as it keeps coming.
    """

    def __init__(self, limits: Limits, receive: "Receive", send: "Send") -> None:
        self.limits, self._receive, self._send = limits, receive, send
        self.deadline = asyncio.get_running_loop().time() + limits.seconds
        self.got, self.more = 0, True

    async def receive(self) -> "Message":
        if not self.more:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self._next()
        except TimeoutError:
            raise HTTPException(408, f"The picture took more than {self.limits.seconds:g} s to arrive.") from None
        if self.got > self.limits.size + FRAME:
            raise HTTPException(413, too_large(self.limits))
        return message

    async def send(self, message: "Message") -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last and self.more:
            await self._send({**message, "more_body": True})
            await self._throw_away()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _throw_away(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.limits.seconds):
                while self.more:
                    async with asyncio.timeout(IDLE):
                        await self._next()

    async def _next(self) -> "Message":
        message = await self._receive()
        self.got += len(message.get("body", b""))
        self.more = message.get("more_body", False)
        return message


def _is_foreign(headers: dict[bytes, bytes]) -> bool:
    """Whether a browser sends this on behalf of a page from elsewhere; it says so to this machine and over TLS.

    `Origin` would tell it elsewhere too, but not behind a proxy that calls the service by another name.
    """
    return headers.get(b"sec-fetch-site") == b"cross-site"


def too_large(limits: Limits) -> str:
    """The refusal of a file."""
    return f"The picture is too large, at most {limits.size / 1e6:g} MB are taken; scale it down."
