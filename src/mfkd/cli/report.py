"""`mfkd report`: a page of a run or of a bench."""

from pathlib import Path
from typing import Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples

EXAMPLES = examples(
    {
        "mfkd report runs/digits": "into runs/digits/report.html",
        "mfkd report runs/bench --out bench.html": "of a bench, elsewhere",
        "mfkd report runs/digits --figures figures": "the figures as files too",
    }
)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN|BENCH", help="The folder of a run or of a bench.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page. Default: report.html in the folder.", show_default=False),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the figures as SVG files too.", show_default=False)
    ] = None,
) -> None:
    """Write one HTML page that tells a run or a bench.

    What was asked and what was gained, learning curves, classes, calibration, and for a run what the fusion sees.
    The page holds everything itself, so it can be mailed, printed and read without a network. Where images or
    networks are not there any more, it is made from the records and says what is missing.
    """
    from mfkd.report.write import write_report

    screen.files(*write_report(folder, screen.say, out, figures))
