"""A training in a process of its own, for what a process has but one of: how it keeps memory that is freed."""

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import torch
from trainings import Training

CHANGES_NOTHING = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
"""The default; but who sets it has said how memory is to be kept, and mfkd leaves it at that."""


def apart(build: Callable[..., Training], *arguments: Any) -> Training:
    """What `build` makes of the arguments, in a new process whose C library does as it does by itself.

    Both sides take as many threads; the process that waits uses none.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with patch.dict(os.environ, CHANGES_NOTHING):
        process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), build, arguments), daemon=False)
        process.start()
    theirs.close()

    def ask(what: str) -> None:
        ours.send(what)
        try:
            ours.recv()
        except EOFError:
            raise SystemExit("the training in a process of its own has ended") from None

    def close() -> None:
        ask("close")
        process.join()

    ask("begin")
    return Training(lambda: ask("step"), lambda: ask("before"), lambda: ask("after"), close)


def _serve(connection: Connection, threads: int, build: Callable[..., Training], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    training, what = None, ""
    while what != "close":
        try:
            what = connection.recv()
        except EOFError:  # the other process has ended
            return
        if training is None:
            training = build(*arguments)
        elif what != "begin":
            getattr(training, what)()
        connection.send(what)
