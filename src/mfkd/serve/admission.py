"""Who is let in: so many requests at a time, so many bytes each, so long to bring them."""

import asyncio
from typing import TYPE_CHECKING

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from mfkd.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FRAME = 65_536
"""Bytes that a form may have around its picture."""


class Admission:
    """Stands before an application and counts the uploads that it holds, without reading those that it sends away.

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
        """Let a request through, or answer 413 or 503 in its place."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        refused = None
        if told.isdigit() and int(told) > self.limits.size + FRAME:
            refused = JSONResponse({"detail": too_large(self.limits)}, 413)
        elif self.held >= self.most:
            text = "Too many pictures are waiting; try again in a second."
            refused = JSONResponse({"detail": text}, 503, {"Retry-After": "1"})
        if refused is not None:
            await refused(scope, receive, send)
            return
        self.held += 1
        try:
            await self.app(scope, self._limited(receive), send)
        finally:
            self.held -= 1

    def _limited(self, receive: "Receive") -> "Receive":
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        got, more = 0, True

        async def limited() -> "Message":
            nonlocal got, more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The picture took more than {self.limits.seconds:g} s to arrive.") from None
            got += len(message.get("body", b""))
            more = message.get("more_body", False)
            if got > self.limits.size + FRAME:
                raise HTTPException(413, too_large(self.limits))
            return message

        return limited


def too_large(limits: Limits) -> str:
    """The refusal of a file."""
    return f"The picture is too large, at most {limits.size / 1e6:g} MB are taken; scale it down."
