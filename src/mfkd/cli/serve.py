"""`mfkd serve`: a trained network behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples

EXAMPLES = examples(
    {
        "mfkd serve runs/digits/export": "at http://127.0.0.1:8000",
        "mfkd serve model.onnx --port 0": "at any free port",
        "curl -F image=@cat.jpg 127.0.0.1:8000/predict": "ask it",
    }
)


def serve(  # noqa: PLR0917 - typer calls it by name
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An export folder, an ONNX file, a run folder or a weights file.")
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Who may ask: 0.0.0.0 lets other machines.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0 takes any that is free.")] = 8000,
    megabytes: Annotated[float, typer.Option("--max-mb", min=0.01, metavar="MB", help="Largest picture.")] = 10,
    megapixels: Annotated[
        float, typer.Option("--max-mpx", min=0.01, metavar="MPX", help="Largest picture once decoded.")
    ] = 50,
    at_once: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Predictions at once. Default: cores, 4 at most.", show_default=False),
    ] = None,
    waiting: Annotated[int, typer.Option(min=0, metavar="N", help="Requests that may wait for them.")] = 256,
) -> None:
    """Answer pictures over HTTP, with a page to drop one on.

    `POST /predict` names the classes of a picture, `GET /healthz` tells what is served. An export is served without
    PyTorch. There is no authentication.
    """
    from mfkd.serve.limits import Limits
    from mfkd.serve.server import is_local, leave, listen, need, run, serving

    need()
    from mfkd.serve.app import LOCAL, make_app
    from mfkd.serve.model import open_model

    given = {} if at_once is None else {"at_once": at_once}
    limits = Limits(size=round(1e6 * megabytes), pixels=round(1e6 * megapixels), waiting=waiting, **given)
    with listen(host, port) as listening:
        served = open_model(model, limits.threads)
        app = make_app(served, limits, (*LOCAL, host) if is_local(listening) else None)
        for line in serving(served.file, served.feed.model, len(served.feed.classes), listening):
            screen.tell(line)
        run(app, listening)
    screen.say("Stopped.")
    leave()
