"""Working through a plan, wherever its cells run: order, states, `bench.json`."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml
from filelock import FileLock, Timeout

from mfkd.bench.cell import Cell, State, failed, told
from mfkd.bench.config import BenchConfig
from mfkd.bench.plan import cells
from mfkd.bench.recorded import check_bench
from mfkd.bench.same import check_same
from mfkd.errors import ConfigError, MfkdError, UnknownNameError
from mfkd.files import read_json, write_json, write_text

FILE = "bench.json"
PATIENCE = 0.5  # seconds between looks at what runs


class Runner(Protocol):
    """Where cells run. What came out is read from their folders, so that a runner only starts and awaits them."""

    @property
    def slots(self) -> int:
        """How many run at a time; it may change."""

    def start(self, cell: Cell) -> None:
        """Begin with a cell; called when fewer than `slots` run."""

    def ended(self, patience: float) -> dict[str, str]:
        """Keys of cells that are no longer worked at, each with how its process died, or ""."""

    def stop(self) -> None:
        """End everything that runs, with everything written."""


@dataclass
class Row:
    """How far a cell is.

    Args:
        cell: which.
        state: `begun` was interrupted and goes on; `waiting` was never begun.
        wanted: whether it is to be done now.
        error: in a line, where it failed.
        figures: top1, best, seconds, once done.
        since: when it was started now.
    """

    cell: Cell
    state: State
    wanted: bool = True
    error: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    since: float = 0.0

    def refresh(self) -> None:
        """Read state and figures from the cell's folder."""
        self.state, self.error, self.figures = self.cell.state, self.cell.failure, told(self.cell)


@dataclass
class Board:
    """All cells of a plan, in the order in which they are done."""

    bench: BenchConfig
    rows: list[Row]

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return Path(self.bench.out).expanduser()

    @property
    def wanted(self) -> list[Row]:
        """The cells that are to be done now, and those of them that are done."""
        return [row for row in self.rows if row.wanted]

    def count(self, *states: State) -> int:
        """How many wanted cells are in one of these states."""
        return sum(row.state in states for row in self.wanted)

    def next(self) -> Row | None:
        """The next cell to start: not before the teacher of its pair."""
        ready = {row.cell.pair for row in self.rows if row.cell.kind == "teacher" and row.state == "done"}
        return next(
            (
                row
                for row in self.rows
                if row.wanted
                and row.state in ("waiting", "begun")
                and (row.cell.kind == "teacher" or row.cell.pair in ready)
            ),
            None,
        )

    def seconds_left(self, slots: int) -> float | None:
        """From the mean time of the students that are done; None before the first one."""
        taken = [row.figures["seconds"] for row in self.rows if row.figures.get("seconds")]
        left = self.count("waiting", "begun", "running")
        return sum(taken) / len(taken) * left / slots if taken else None

    def save(self) -> None:
        """Write `bench.json`."""
        write_json(
            self.folder / FILE,
            {
                "methods": list(self.bench.methods),
                "family": list(self.bench.family),
                "kd": self.bench.kd,
                "cells": [
                    {
                        "key": row.cell.key,
                        **row.cell.model_dump(include={"kind", "pair", "budget", "method", "seed"}),
                        "folder": str(row.cell.folder.relative_to(self.folder)),
                        "split": row.cell.config.data.evaluate,
                        "state": row.state,
                        "error": row.error,
                        **row.figures,
                    }
                    for row in self.rows
                ],
            },
        )


def open_board(bench: BenchConfig, only: Sequence[str] = (), retry: bool = False) -> Board:
    """The cells of a plan with what their folders say of them.

    Args:
        bench: a plan.
        only: methods that are to be done now; none names all. Teachers and the student alone always are.
        retry: whether failed cells are done again.

    Raises:
        UnknownNameError: `only` names what is no method of the plan.
        ConfigError: a teacher or student there was trained with other settings than the plan's.
    """
    for name in only:
        if name not in bench.methods:
            raise UnknownNameError("method", name, bench.methods, "--only names methods of the plan.")
    rows = [Row(cell, cell.state) for cell in cells(bench)]
    for row in rows:
        row.refresh()
        row.wanted = not only or row.cell.kind != "distilled" or row.cell.method in only
        if retry and row.state == "failed":
            row.state, row.error = "waiting", ""
        if row.state == "done":
            check_same(row.cell)
    return Board(bench, rows)


def run_bench(board: Board, runner: Runner, watch: Callable[[Board, Row | None], None]) -> None:
    """Do all that is still to be done; finished cells are kept, interrupted ones go on, failed ones stop nothing.

    Args:
        board: from `open_board`; kept up to date.
        runner: where the cells run.
        watch: called after every change with the cell that changed, and with None every now and then.

    Raises:
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, once everything is on disk.
        ConfigError: another process works at the same folder.
    """
    from mfkd.train.interrupt import Interrupted, stop_at_once

    board.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(board.folder / ".lock", timeout=0):
            write_text(board.folder / "plan.yaml", to_yaml(board.bench))
            board.save()
            with stop_at_once("stopped"):
                _work(board, runner, watch)
    except Timeout:
        raise ConfigError(f"{board.folder} is being worked at by another mfkd bench; wait, or choose out=.") from None
    except (KeyboardInterrupt, Interrupted) as error:
        left, signum = board.count("waiting", "begun", "running"), getattr(error, "signum", signal.SIGINT)
        text = f"bench: stopped, {left} cells are left; the same command goes on from here."
        raise Interrupted(text, signum) from None


def to_yaml(bench: BenchConfig) -> str:
    """The complete plan as YAML, which reads back to the same plan."""
    text: str = yaml.safe_dump(bench.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def read_bench(folder: Path) -> dict[str, Any]:
    """What `bench.json` holds.

    Raises:
        MfkdError: no finished or begun bench there.
    """
    value = read_json(folder / FILE)
    if not isinstance(value, dict) or not {"methods", "cells", "family", "kd"} <= value.keys():
        raise MfkdError(f"{folder / FILE} was not written by mfkd bench; delete it and run the plan again.")
    check_bench(value, folder / FILE)
    return value


def _work(board: Board, runner: Runner, watch: Callable[[Board, Row | None], None]) -> None:
    running: dict[str, Row] = {}
    try:
        while True:
            while len(running) < runner.slots and (row := board.next()) is not None:
                row.cell.error.unlink(missing_ok=True)
                row.state, row.error, row.since = "running", "", time.monotonic()
                running[row.cell.key] = row
                runner.start(row.cell)
                watch(board, row)
            if not running:
                return
            for key, death in runner.ended(PATIENCE).items():
                row = running.pop(key)
                if death and not row.cell.done:
                    failed(row.cell, f"{death}; see {row.cell.log}")
                row.refresh()
                board.save()
                watch(board, row)
            watch(board, None)
    finally:
        runner.stop()
        for row in running.values():
            row.refresh()
        board.save()
