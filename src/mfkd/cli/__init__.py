"""The command line: parse, call, print. One file a command; refusals are one line and exit code 2."""

import errno
import io
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from mfkd.cli import (
    bench,
    cache,
    compare,
    evaluate,
    export,
    latency,
    listing,
    predict,
    profile,
    push,
    report,
    run,
    screen,
    serve,
    steps,
    sweep,
)
from mfkd.cli.command import Command, Group, examples, prose
from mfkd.errors import MfkdError, cut

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
"""What a disk may answer; whatever else the system refuses is a fault of ours and keeps its traceback."""

app = typer.Typer(
    name="mfkd",
    help="Train small image classifiers that learn from a big one by fusing its feature maps.",
    epilog=examples(
        {
            "mfkd run": "the whole job on the embedded digits",
            "mfkd run --recipes": "what else is ready to run",
            "mfkd COMMAND --help": "what a command does",
        }
    ),
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: tuple[tuple[Callable[..., None], str | None], ...] = (
    (run.run, run.EXAMPLES),
    (steps.train, steps.TRAIN_EXAMPLES),
    (steps.distill, steps.DISTILL_EXAMPLES),
    (evaluate.evaluate, evaluate.EXAMPLES),
    (export.export, export.EXAMPLES),
    (predict.predict, predict.EXAMPLES),
    (serve.serve, serve.EXAMPLES),
    (push.push, push.EXAMPLES),
    (profile.profile, profile.EXAMPLES),
    (bench.bench, bench.EXAMPLES),
    (compare.compare, compare.EXAMPLES),
    (report.report, report.EXAMPLES),
    (sweep.sweep, sweep.EXAMPLES),
    (latency.latency, latency.EXAMPLES),
    (listing.models, None),
    (listing.methods, listing.METHODS_EXAMPLES),
    (listing.taps, listing.TAPS_EXAMPLES),
)
for function, epilog in COMMANDS:
    app.command(function.__name__, cls=Command, help=prose(function.__doc__ or ""), epilog=epilog)(function)
app.add_typer(cache.app)


def _version(wanted: bool) -> None:
    if wanted:
        from mfkd import __version__

        screen.tell(f"mfkd {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version  # read by its callback


def main() -> None:
    """Run the command line, as typer has it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± is no reason to fail
    try:
        app()
    except MfkdError as error:
        refuse(error)
    except OSError as error:
        if error.errno not in (*DISK, errno.ENAMETOOLONG):
            raise
        advice = "give a shorter name" if error.errno == errno.ENAMETOOLONG else "free space or choose another folder"
        refuse(MfkdError(f"{cut(str(error.filename or 'a file'))}: {error.strerror}; {advice}."))


def refuse(error: MfkdError) -> NoReturn:
    """Tell an error in one line and end."""
    code = getattr(error, "code", 2)  # of what a signal has stopped
    text = " ".join(str(error).split())
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(5)  # torchrun ends this process meanwhile, if the first one has told the same
        text = f"process {rank}: {text}"
    screen.complain(f"error: {text}" if code == 2 else text)
    sys.exit(code)
