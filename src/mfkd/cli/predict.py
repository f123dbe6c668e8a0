"""`mfkd predict`: classes of single images."""

from pathlib import Path
from typing import Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json

EXAMPLES = examples(
    {
        "mfkd predict cat.jpg --model runs/pets": "the five likeliest classes",
        "mfkd predict photos -m runs/pets --top 1": "every image of a folder",
        "ls *.jpg | mfkd predict - -m runs/pets/export": "a list, by ONNX Runtime alone",
    }
)


def predict(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Image files, folders of them, or - for a list on stdin.")
    ],
    model: Annotated[
        Path,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="A run folder, a weights file, an export folder or an ONNX file."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many classes to name.")] = 5,
    as_json: Json = False,
) -> None:
    """Name the likeliest classes of images.

    An export folder or an ONNX file is asked without PyTorch, and so answers in a fraction of a second. Images that
    cannot be read are told on standard error after the answers to all others, with exit code 1.
    """
    from mfkd.export.classify import classify, graph_of, listed, sorted_out
    from mfkd.export.quick import UNREAD

    wanted, file = listed(images), graph_of(model)
    if file is not None:
        found = classify(wanted, file, top)
    else:
        from mfkd.export.opened import weights_of
        from mfkd.handed import predict_images

        found, file = predict_images(wanted, model, top), weights_of(model)
    lines, unread = sorted_out(found)
    if as_json:
        screen.dump(found)
    for text in () if as_json else lines:
        screen.tell(text)
    screen.files(file, quiet=as_json)
    for text in unread:
        screen.complain(text)
    if unread:
        raise typer.Exit(UNREAD)
