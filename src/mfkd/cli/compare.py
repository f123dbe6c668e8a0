"""`mfkd compare`: methods beside one another."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json

if TYPE_CHECKING:
    from mfkd.bench.compare import Comparison

EXAMPLES = examples(
    {
        "mfkd compare runs/bench": "a bench, finished or not",
        "mfkd compare runs/kd runs/mfkd": "two runs that are alike",
        "mfkd compare runs/a runs/b --allow train": "although trained otherwise",
        "mfkd compare runs/bench --markdown a.md": "into a file",
    }
)
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="FIELD", help="A setting that may differ, with all below it, such as data; repeatable."
    ),
]


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS", help="Run folders, folders of a bench, record files or folders of them."),
    ],
    allow: Allow = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables as Markdown too.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write all figures as CSV too.")] = None,
    as_json: Json = False,
) -> None:
    """Compare methods, paired by seed: differences, intervals, ranks and costs.

    Students are compared that differ in method and seed alone: other data, budget, teacher or protocol
    are refused with the name of the setting, unless `--allow` names it. What others published for the
    pair is quoted beside, with how it was obtained.
    """
    from mfkd.bench.compare import compare as compare_paths
    from mfkd.bench.tables import as_csv
    from mfkd.bench.tables import markdown as as_markdown
    from mfkd.files import write_text

    found = compare_paths(runs, allow or ())
    if markdown is not None:
        write_text(markdown, as_markdown(found))
    if csv is not None:
        write_text(csv, as_csv(found))
    if as_json:
        screen.dump([one.as_dict() for one in found])
    else:
        show(found)
    screen.files(*(path for path in (markdown, csv) if path is not None), *runs, quiet=as_json)


def show(comparisons: "Sequence[Comparison]") -> None:
    """Print comparisons as tables, with how they are to be read."""
    from mfkd.bench.tables import remarks, tables

    for one in comparisons:
        for title, columns, rows in tables(one):
            screen.table(title, columns, rows)
        for remark in remarks(one):
            screen.tell(remark)
