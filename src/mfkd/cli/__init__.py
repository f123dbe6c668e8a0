"""The command line: parse, call, print. One file a command; refusals are one line and exit code 2."""

import sys

import typer
from rich.console import Console

from mfkd.cli import evaluate, listing, predict, run, steps
from mfkd.errors import MfkdError

INTERRUPTED = 130  # 128 + SIGINT, the shell's custom

app = typer.Typer(
    name="mfkd",
    help="Train small image classifiers that learn from a big one by fusing its feature maps.",
    epilog="Start with `mfkd run`: it needs nothing and takes about two minutes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("train")(steps.train)
app.command("distill")(steps.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("models")(listing.models)
app.command("methods")(listing.methods)
app.command("taps")(listing.taps)


@app.callback()
def _top(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from mfkd import __version__

        Console().print(f"mfkd {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run the command line; `mfkd` and `python -m mfkd` end here."""
    try:
        app()
    except MfkdError as error:
        interrupted = type(error).__name__ == "Interrupted"
        Console(stderr=True, soft_wrap=True).print(
            f"[bold]mfkd:[/] {'' if interrupted else '[red]error:[/] '}", end="", highlight=False
        )
        Console(stderr=True, soft_wrap=True).print(" ".join(str(error).split()), markup=False, highlight=False)
        sys.exit(INTERRUPTED if interrupted else 2)
