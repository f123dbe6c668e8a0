"""`mfkd latency`: how fast networks answer, side by side."""

from typing import Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json, image_shape

EXAMPLES = examples(
    {
        "mfkd latency runs/digits": "its teacher and its student",
        "mfkd latency runs/digits/export": "every form of an export",
        "mfkd latency resnet56 resnet20 a.onnx": "networks by name, and a file",
    }
)


def latency(  # noqa: PLR0917 - typer calls it by name
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Run folders, export folders, weights files, ONNX files, or names of networks."
        ),
    ],
    batch: Annotated[list[int], typer.Option(min=1, metavar="N", help="Images a call; may be repeated.")] = [1, 64],  # noqa: B006
    rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Calls of each network, after three to warm up.")
    ] = 30,
    input_shape: Annotated[
        str, typer.Option("--input", metavar="CxHxW", help="Images of a network that is only named.")
    ] = "3x32x32",
    num_classes: Annotated[
        int, typer.Option("--classes", min=2, metavar="N", help="Classes of a network that is only named.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """Time networks on the CPU, in PyTorch and in ONNX Runtime.

    All are called in turns, so that whatever else the machine does falls on all alike.
    """
    shape = image_shape(input_shape)
    from mfkd.export.contest import contest

    sizes = tuple(dict.fromkeys(batch))
    found = contest(models, batches=sizes, rounds=rounds, classes=num_classes, shape=shape, say=screen.say)
    if as_json:
        screen.dump(found)
    else:
        _table(found)


def _table(found: dict[str, Any]) -> None:
    rows: list[list[str]] = []
    for row in found["rows"]:
        cells = [row["name"], row["runtime"]]
        memory = [screen.number(row["peak_megabytes"], 0), screen.number(row["megabytes"])]
        for size in found["batches"]:
            told = row["batches"][str(size)]
            spread = f"{told['low']:.3f}-{told['high']:.3f}"
            speed = screen.number(told["images_per_second"], 0)
            rows.append([*cells, str(size), screen.number(told["ms"], 3), spread, speed, *memory])
            cells, memory = ["", ""], ["", ""]
    screen.table(
        f"Milliseconds an image, median and quartiles; {found['threads']} thread"
        f"{'s' if found['threads'] > 1 else ''} of {found['processor']}",
        ["network", "runtime", "batch", "ms", "quartiles", "images/s", "peak, MB", "file, MB"],
        rows,
        left=2,
        fixed=0,
    )
    for note in found["notes"]:
        screen.tell(f"Note: {note}")
    screen.tell("Peak is the memory to load the network and answer the largest batch, beside that of the libraries.")
