"""`mfkd sweep`: hyperparameters of a method, chosen on the validation images."""

from typing import TYPE_CHECKING, Annotated

import typer

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.words import Json, Recipe, config_from

if TYPE_CHECKING:
    from mfkd.config import RunConfig

EXAMPLES = examples(
    {
        "mfkd sweep --method kd weight=0.5..8": "kd on the digits",
        "mfkd sweep my.yaml --trials 4 weight=32..512": "four trials of mfkd",
        "mfkd sweep train.lr=0.01..0.4 seeds=[0,1]": "the rate, mean of two seeds",
    }
)


def sweep(  # noqa: PLR0917 - typer calls it
    recipe: Recipe = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=...",
            help="What is searched: [cyan]key=low..high[/] or [cyan]key=\\[a,b][/], of the method (weight) or of the "
            "recipe (train.lr); anything else is a change to the recipe, as for [cyan]mfkd run[/].",
        ),
    ] = None,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="The method to tune.")] = "mfkd",
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many are drawn.")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the drawing.")] = 0,
    as_json: Json = False,
) -> None:
    """Choose hyperparameters by the validation images; the test images are not looked at.

    Images are held out with `data.val_fraction` (0.1 where the recipe names none). A range whose ends are ten
    times apart is searched by orders of magnitude. After Ctrl-C the same command goes on, and more `--trials`
    are added to those that there are. The best options are in `best.yaml`, every trial is in `trials.json`.
    """
    searched, config = _split(recipe, words or ())
    from mfkd.bench.sweep import BEST, TRIALS, plan_sweep, run_sweep

    planned = plan_sweep(config, method, searched, trials, seed)
    result = run_sweep(planned, screen.say)
    if as_json:
        screen.dump(result)
    else:
        names = list(result["space"])
        rows = sorted(result["trials"], key=lambda one: -one.get("val_top1", -1.0))
        screen.table(
            f"{len(rows)} trials, Top-1 on the validation images, mean of seeds {list(config.seeds)}",
            ["trial", *(name.removeprefix("method.") for name in names), "Top-1, %", ""],
            [
                [
                    str(one["number"]),
                    *(_cell(one["values"].get(name)) for name in names),
                    screen.number(one.get("val_top1")),
                    one.get("error", ""),
                ]
                for one in rows
            ],
        )
        screen.tell(result["said"])
    screen.files(planned.folder / BEST, planned.folder / TRIALS, quiet=as_json)


def _split(recipe: str | None, words: "tuple[str, ...] | list[str]") -> "tuple[list[str], RunConfig]":
    """What is searched, and the recipe: a list is a choice where the recipe takes no list."""
    from mfkd.errors import MfkdError

    given = [word for word in (recipe, *words) if word is not None]
    searched = [word for word in given if "=" in word and _is_range(word)]
    rest = [word for word in given if word not in searched]
    for word in [word for word in rest if "=[" in word]:
        try:
            config_from("digits", [word])
        except MfkdError:
            searched.append(word)
            rest.remove(word)
    named = any(word.partition("=")[0] in ("data", "data.val_fraction") for word in rest)
    config = config_from(None, rest)
    if config.data.val_fraction == 0 and not named:
        config = config_from(None, [*rest, "data.val_fraction=0.1"])
    return searched, config


def _is_range(word: str) -> bool:
    from mfkd.bench.space import RANGE

    return bool(RANGE.fullmatch(word.partition("=")[2]))


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
