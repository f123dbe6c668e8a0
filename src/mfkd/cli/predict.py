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
    }
)


def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of them.")],
    model: Annotated[
        Path,
        typer.Option("--model", "-m", metavar="RUN", help="A run folder, or a weights file written by mfkd."),
    ],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many classes to name.")] = 5,
    as_json: Json = False,
) -> None:
    """Name the likeliest classes of images."""
    from mfkd.handed import predict_images, weights_of

    found = predict_images(images, model, top)
    if as_json:
        screen.dump(found)
    else:
        for row in found:
            screen.tell(f"{row['image']}: " + ", ".join(f"{name} {share:.1%}" for name, share in row["top"]))
    screen.files(weights_of(model), quiet=as_json)
