"""`mfkd evaluate`: all metrics of a trained network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json

EXAMPLES = examples(
    {
        "mfkd evaluate runs/digits": "the distilled student",
        "mfkd evaluate runs/digits/teacher": "its teacher",
        "mfkd evaluate runs/x data.name=folder:photos": "on other images",
    }
)
METRICS = {  # label, unit, digits
    "top1": ("Top-1", "%", 2),
    "top5": ("Top-5", "%", 2),
    "balanced": ("balanced accuracy", "%", 2),
    "ece": ("calibration error (ECE)", "%", 2),
    "agreement": ("agrees with teacher", "%", 2),
    "loss": ("cross-entropy", "nats", 4),
    "n": ("images", "", 0),
    "parameters": ("parameters", "", 0),
    "flops": ("FLOPs an image", "", 0),
    "latency_ms": ("time an image, one by one", "ms", 2),
}


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a weights file inside of one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Other images, such as [cyan]data.name=folder:PATH[/].", show_default=False
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="test|val", help="Images to measure on.")] = "test",
    as_json: Json = False,
) -> None:
    """Measure a trained network: accuracy, calibration, size, speed.

    The images are those that its own recipe names, unless keys such as `data.name` say otherwise.
    """
    from mfkd.handed import evaluate_run

    value = evaluate_run(model, overrides or [], split)
    if as_json:
        screen.dump(value)
    else:
        _metrics(value)
    screen.files(Path(value["weights"]), quiet=as_json)


def _metrics(value: dict[str, Any]) -> None:
    rows = [
        [label, screen.number(value[name], digits), unit]
        for name, (label, unit, digits) in METRICS.items()
        if name in value
    ]
    screen.table(f"{value['model']} on {value['data']}, {value['split']} images", ["metric", "value", "unit"], rows)
    for note in value["notes"]:
        screen.tell(f"Note: {note}")
