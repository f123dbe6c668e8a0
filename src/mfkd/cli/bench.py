"""`mfkd bench`: a plan of many trainings."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mfkd.cli import screen
from mfkd.cli.command import examples
from mfkd.cli.compare import show
from mfkd.cli.words import Json

if TYPE_CHECKING:
    from mfkd.bench.run import Board, Row, Runner

EXAMPLES = examples(
    {
        "mfkd bench bench-digits": "all methods on the digits",
        "mfkd bench my.yaml --dry-run": "what would it take?",
        "mfkd bench my.yaml --jobs 2 seeds=[0,1]": "two at a time, other seeds",
        "mfkd bench my.yaml data.name=cifar10": "other data",
        "mfkd bench my.yaml --ray head:6379": "on the machines of a Ray cluster",
        "mfkd bench my.yaml --retry --only kd,mfkd": "two methods, failed cells again",
    }
)


def bench(  # noqa: PLR0917 - typer calls it
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A YAML file, or the name of a shipped plan.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Changes to the plan (seeds, out, ...) or, all other keys, to its base."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells with an estimate of time and disk; write nothing.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="Trainings at a time; cores and GPUs are shared out.", show_default="1; on Ray: all"
        ),
    ] = None,
    ray: Annotated[
        str, typer.Option("--ray", metavar="ADDRESS", help="Run on a Ray cluster: HOST:PORT of its head, or auto.")
    ] = "",
    cpus: Annotated[int, typer.Option("--cpus-per-cell", min=1, help="With --ray: CPUs of a training.")] = 1,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-cell",
            min=0,
            help="With --ray: GPUs of a training, such as 0.5.",
            show_default="1 where there are any",
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do failed cells again.")] = False,
    only: Annotated[
        str, typer.Option("--only", metavar="METHODS", help="Do these methods alone now, such as kd,mfkd.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Train all methods of a plan on all its pairs, seeds and budgets, and compare them.

    The teacher of a pair is made once, and so is what the seeds of a method share. Finished cells are
    kept, interrupted ones go on after Ctrl-C with the same command, and one that fails is shown with its
    error and stops no other. Everything is in the folder `out`.
    """
    from mfkd.bench.plan import load_bench
    from mfkd.bench.run import open_board, run_bench

    board = open_board(load_bench(plan, overrides or ()), [name for name in only.split(",") if name], retry)
    if dry_run:
        from mfkd.bench.foresee import foresee

        return _estimate(foresee(board, screen.say), jobs or 1, as_json)
    with _runner(board, ray, jobs, cpus, gpus) as runner, Watch(runner) as watch:
        run_bench(board, runner, watch)
    return _end(board, as_json)


def _runner(
    board: "Board", ray: str, jobs: int | None, cpus: int, gpus: float | None
) -> "AbstractContextManager[Runner]":
    if ray:
        from mfkd.bench.ray import connected

        return connected(ray, board.folder, jobs, cpus, gpus)
    from mfkd.bench.local import Local
    from mfkd.errors import ConfigError

    if cpus != 1 or gpus is not None:
        raise ConfigError("--cpus-per-cell and --gpus-per-cell go with --ray; --jobs shares out this machine.")
    return nullcontext(Local(jobs or 1))


class Watch:
    """Shows a bench: a table that changes on a terminal, a line a cell in a file."""

    def __init__(self, runner: "Runner") -> None:
        self.runner = runner
        self.console = Console(file=sys.stderr, soft_wrap=not sys.stderr.isatty())
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> "Watch":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, board: "Board", row: "Row | None") -> None:
        """Show what has changed."""
        if self.live is not None:
            self.live.update(board_table(board, self.runner.slots), refresh=True)
        elif row is not None and row.state != "running":
            place = f"[{board.count('done', 'failed')}/{len(board.wanted)}]"
            self.console.print(Text(f"{place} {row.cell.title}: {_outcome(row)}"), highlight=False)


def board_table(board: "Board", slots: int) -> Table:
    """Rows of methods with how many of their seeds are done, what runs now, and what failed."""
    left = board.seconds_left(slots)
    rest = f", about {screen.duration(left)} left" if left else ""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{board.count('done')} of {len(board.wanted)} done{rest}")
    for column in ("training", "done", "Top-1, %", "now"):
        table.add_column(column, justify="left" if column in ("training", "now") else "right")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in board.wanted:
        name = row.cell.method or "teacher"
        groups.setdefault(tuple(part for part in (row.cell.pair, row.cell.budget, name) if part), []).append(row)
    shown = 1 if len({name[:-1] for name in groups}) <= 2 else 0  # one pair: its name says nothing
    # A terminal may have fewer lines than there are methods: what runs and what failed comes first.
    for key, rows in sorted(groups.items(), key=lambda item: not _now(item[1])):
        values = [row.figures["top1"] for row in rows if row.figures.get("top1") is not None]
        done = f"{sum(row.state == 'done' for row in rows)}/{len(rows)}"
        mean = screen.number(sum(values) / len(values)) if values else "-"
        table.add_row(*map(Text, (" ".join(key[shown:]) or key[-1], done, mean, _now(rows))))
    return table


def _now(rows: "list[Row]") -> str:
    said = []
    for row in rows:
        if row.state == "running":
            log = row.cell.folder / "log.csv"
            epochs = max(0, len(log.read_text(encoding="utf-8").splitlines()) - 1) if log.exists() else 0
            since = screen.duration(time.monotonic() - row.since)
            said.append(f"seed {row.cell.seed}: {epochs}/{row.cell.config.train.epochs} epochs, {since}")
        elif row.state == "failed":
            said.append(f"seed {row.cell.seed} failed: {row.error}")
    return "; ".join(said)


def _outcome(row: "Row") -> str:
    if row.state == "failed":
        return f"failed: {row.error}"
    top1, seconds = row.figures.get("top1"), row.figures.get("seconds")
    said = [row.state] if top1 is None else [f"{top1:.2f}%"]
    return " in ".join([*said, *([screen.duration(seconds)] if seconds else [])])


def _end(board: "Board", as_json: bool) -> None:
    from mfkd.bench.compare import compare
    from mfkd.bench.tables import as_csv, markdown
    from mfkd.files import write_json, write_text

    files = [board.folder / f"comparison.{ending}" for ending in ("md", "csv", "json")]
    students = [row for row in board.rows if row.cell.kind != "teacher" and row.state == "done"]
    if students:
        found = compare([board.folder])
        write_text(files[0], markdown(found))
        write_text(files[1], as_csv(found))
        write_json(files[2], [one.as_dict() for one in found])
        if as_json:
            screen.dump([one.as_dict() for one in found])
        else:
            show(found)
    screen.files(board.folder / "bench.json", *(files if students else ()), quiet=as_json)
    failures = [row for row in board.wanted if row.state == "failed"]
    if failures:
        first = f"{failures[0].cell.title}: {failures[0].error}".rstrip(".")
        screen.complain(f"{len(failures)} of {len(board.wanted)} cells failed, first {first}; --retry does them again.")
        raise typer.Exit(1)


def _estimate(value: dict[str, Any], jobs: int, as_json: bool) -> None:
    if as_json:
        return screen.dump(value)
    rows: list[list[str] | None] = [
        [
            cell["key"],
            "would fail" if cell["error"] else cell["state"],
            screen.duration(cell["seconds"]) if cell["seconds"] else "-",
            screen.number(cell["megabytes"], 1),
        ]
        for cell in value["cells"]
    ]
    for cache in value["caches"]:
        time_needed, size = screen.duration(cache["seconds"]), screen.number(cache["megabytes"], 1)
        rows.append([f"knowledge: {cache['holds']}", "", time_needed, size])
    total = screen.duration(value["seconds"] / jobs)
    screen.table(
        "What is to be done, estimated from a few measured updates of each method",
        ["cell", "state", "time", "MB on disk"],
        [*rows, None, ["all" if jobs == 1 else f"all, {jobs} at a time", "", total, f"{value['megabytes']:,.1f}"]],
        left=2,
    )
    for told in dict.fromkeys(cell["error"] for cell in value["cells"] if cell["error"]):
        screen.tell(f"Would fail: {told}")
    return screen.tell("Nothing was written.")
