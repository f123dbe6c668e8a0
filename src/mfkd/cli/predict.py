"""`mfkd predict`: classes of single images."""

from pathlib import Path
from typing import Annotated

import typer

from mfkd.cli.words import Json


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="A run folder, or a weights file written by mfkd.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    as_json: Json = False,
) -> None:
    """Name the most probable classes of images."""
    from mfkd.cli import show
    from mfkd.handed import predict_images

    show.predictions(predict_images(images, model, top), as_json)
