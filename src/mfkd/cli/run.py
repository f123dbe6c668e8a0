"""`mfkd run`: the whole job."""

from typing import Annotated

import typer

from mfkd.cli.words import EPILOG, Json, Words


def run(
    words: Words = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps with an estimate of time and disk, do nothing.")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key of a recipe with its default.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the shipped recipes.")] = False,
    as_json: Json = False,
) -> None:
    """Do the whole job: teacher, student alone, student distilled, evaluation, summary.

    The teacher is loaded, or trained first if the recipe names no weights. Steps that are already
    done in the run folder are kept, so an interrupted run goes on with the same command.
    """
    from mfkd.cli import show

    if keys:
        return show.keys()
    if recipes:
        return show.recipes()
    from mfkd.cli.words import plan_from
    from mfkd.pipeline import run as run_plan

    plan = plan_from(words)
    if dry_run:
        from mfkd.estimate import estimate

        return show.estimate(estimate(plan), as_json)
    summary = run_plan(plan, show.say)
    show.summary(summary, plan.folder, as_json)
    return None


run.__doc__ = f"{run.__doc__}\n\n{EPILOG}"
