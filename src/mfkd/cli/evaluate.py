"""`mfkd evaluate`: all metrics of a trained network."""

from pathlib import Path
from typing import Annotated

import typer

from mfkd.cli.words import Json


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a weights file inside of one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Other data, such as data.name=folder:PATH.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    as_json: Json = False,
) -> None:
    """Measure a trained network: Top-1, Top-5, balanced accuracy, calibration, size, FLOPs, latency."""
    from mfkd.cli import show
    from mfkd.handed import evaluate_run

    show.metrics(evaluate_run(model, overrides or [], split), str(model), as_json)
