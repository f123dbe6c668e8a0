"""The application: one route that answers pictures, one that says that it is there, one page."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from mfkd import __version__
from mfkd.serve.admission import Admission, too_large
from mfkd.serve.limits import Limits
from mfkd.serve.model import Served
from mfkd.serve.page import page
from mfkd.serve.pictures import PictureError
from mfkd.serve.server import POOL

MOST = 100
"""Classes that a client may ask for at a time."""
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
"""Names that every machine has for itself."""


class Likely(BaseModel):
    """One class of an answer."""

    label: str
    probability: float = Field(ge=0, le=1)


class Answer(BaseModel):
    """What is said of a picture."""

    top: list[Likely] = Field(description="Likeliest first.")
    milliseconds: float = Field(description="To decode the picture and ask the network, without waiting.")


class Health(BaseModel):
    """What is there to be asked."""

    ready: bool
    model: str
    classes: list[str]
    version: str = Field(description="Of mfkd.")
    max_bytes: int = Field(description="Of a picture.")


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str


def make_app(model: Served, limits: Limits, hosts: Sequence[str] | None = LOCAL) -> FastAPI:
    """The application for one network.

    Args:
        model: from `open_model`.
        limits: what it takes at most.
        hosts: names by which clients must call this machine, so that no page on the Internet reaches the service by
            a name that it lets point here (DNS rebinding); None takes any.
    """
    pool = ThreadPoolExecutor(limits.at_once, POOL)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="mfkd", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Admission, limits=limits)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)

    def ask(image: UploadFile, top: int) -> Answer:
        # Read here, so that what waits stays in its temporary file.
        data = image.file.read()
        start = time.perf_counter()
        found = model.answer(data, top, limits.pixels)
        spent = 1000 * (time.perf_counter() - start)
        return Answer(top=[Likely(label=name, probability=share) for name, share in found], milliseconds=spent)

    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": Refusal} for code in (400, 403, 408, 413, 415, 422, 503)
    }

    @app.post("/predict", responses=refusals)
    async def predict(
        image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, BMP or GIF.")],
        top: Annotated[int, Query(ge=1, le=MOST, description="How many classes to name.")] = 5,
    ) -> Answer:
        """Name the likeliest classes of a picture."""
        if (image.size or 0) > limits.size:
            raise HTTPException(413, too_large(limits))
        return await asyncio.get_running_loop().run_in_executor(pool, ask, image, top)

    @app.get("/healthz")
    async def healthz() -> Health:
        """Say what is served."""
        feed = model.feed
        return Health(
            ready=True, model=feed.model, classes=list(feed.classes), version=__version__, max_bytes=limits.size
        )

    text, headers = page()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(text, headers=headers)

    @app.exception_handler(PictureError)
    async def refused(_: Request, error: PictureError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _sentence(error)}, 422)

    return app


def _sentence(error: RequestValidationError) -> str:
    place = error.errors()[0]["loc"][-1]
    if place == "image":
        return "The picture is missing; send it as the file image of a form (multipart/form-data)."
    return f"The number of classes, {place}, must be from 1 to {MOST}."
