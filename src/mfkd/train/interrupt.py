"""Signals end a training between two updates, with everything written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from mfkd.errors import MfkdError

# What the command line exits with: 128 + number as shells have it, and EX_TEMPFAIL, "try again", for the signal by
# which schedulers announce that a job is about to be put back into the queue.
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}


class Interrupted(MfkdError):  # noqa: N818 - it is no error
    """The user or the system stopped a training; its checkpoint is complete.

    Args:
        text: one line.
        signum: the signal that did it.

    Attributes:
        code: exit code of the command line, see `CODES`.
        signum: as given.
    """

    def __init__(self, text: str, signum: int = signal.SIGINT) -> None:
        self.code = CODES[signal.Signals(signum)]
        self.signum = signum
        super().__init__(text)


def stopped(what: str, folder: Path, signum: int) -> Interrupted:
    """Of something that goes on from what lies in a folder."""
    return Interrupted(f"{what}; the same command goes on from here. Everything is in {folder}.", signum)


class Interrupt:
    """While active, the first signal sets `pending`; Ctrl-C after it is an ordinary KeyboardInterrupt.

    Args:
        active: False leaves signals alone; so do threads.
        insist: False takes no notice of a second Ctrl-C (torchrun passes on what its processes have got already).

    Attributes:
        pending: whether to stop.
        signum: the first signal.
    """

    def __init__(self, active: bool = True, insist: bool = True) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.insist = insist
        self.pending = False
        self.signum: int = signal.SIGINT

    def __enter__(self) -> "Interrupt":
        if self.active:
            self._before = {number: signal.signal(number, self._note) for number in CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.pending and self.insist and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.pending:
            self.signum = signum
        self.pending = True


@contextmanager
def stop_at_once(text: str) -> Iterator[None]:
    """Outside of trainings, where nothing is lost: SIGTERM and SIGUSR1 end the block as Ctrl-C does.

    Raises:
        Interrupted: with this text.
    """

    def stop(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise Interrupted(text, signum)

    active = threading.current_thread() is threading.main_thread()
    numbers = [number for number in CODES if active and number != signal.SIGINT]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
