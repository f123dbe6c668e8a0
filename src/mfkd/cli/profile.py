"""`mfkd profile`: where the time of a training goes."""

from pathlib import Path
from typing import Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json, Overrides, Recipe, plan_from

EXAMPLES = examples(
    {
        "mfkd profile": "the digits",
        "mfkd profile my.yaml train.precision=bf16": "in another precision",
        "mfkd profile my.yaml cache.views=4": "with a knowledge cache",
        "mfkd profile my.yaml --trace trace.json": "for ui.perfetto.dev",
    }
)
LABELS = {
    "input": "input",
    "teacher": "teacher",
    "student": "student forward",
    "method": "method and loss",
    "backward": "backward",
    "optimiser": "optimiser",
}


def profile(
    recipe: Recipe = None,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=2, metavar="N", help="Updates that are timed.")] = 20,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the trace of torch's profiler.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell where the time of a distillation goes.

    Takes some updates of the student in phases, and as many of plain training on data already in memory: the floor.
    A teacher or knowledge cache that is not there yet is stood in for. Nothing is written but the trace.
    """
    plan = plan_from(recipe, overrides)
    from mfkd.profile import profile as measured

    found = measured(plan, steps, trace)
    if as_json:
        screen.dump(found)
    else:
        rows = [[LABELS[name], *_cells(part["ms"], part["share"])] for name, part in found["phases"].items()]
        step = found["step_ms"]
        screen.table(
            f"One update of {found['batch_size']} images, knowledge {found['knowledge']}, medians of {steps}",
            ["phase", "ms", "share, %"],
            [*rows, None, ["whole step", *_cells(step, 1.0)], ["plain training, data in memory", *_cells(
                found["floor_ms"], found["floor_ms"] / step)]],
        )  # fmt: skip
        screen.tell(
            f"{found['images_per_second']:,.0f} images/s, plain {found['floor_images_per_second']:,.0f}; "
            f"{found['ratio']:.2f} times its time; {100 * found['overhead']:.1f}% outside networks and optimiser; "
            f"at most {found['peak_mb']:,.0f} MB"
        )
        if found["compiled"]:
            screen.tell(f"Compiled: {' and '.join(found['compiled'])}.")
    if trace is not None:
        screen.files(trace, quiet=as_json)


def _cells(ms: float, share: float) -> list[str]:
    return [screen.number(ms), screen.number(100 * share, 1)]
