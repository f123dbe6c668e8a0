"""Ctrl-C ends a training between two updates, with everything written."""

import signal
import threading
from types import FrameType, TracebackType

from mfkd.errors import MfkdError


class Interrupted(MfkdError):  # noqa: N818 - it is no error
    """The user stopped a training; its checkpoint is complete. The command line exits with 130."""


class Interrupt:
    """While active, the first Ctrl-C sets `pending`; the second one is an ordinary KeyboardInterrupt.

    Args:
        active: False leaves signals alone (further processes, threads).
    """

    def __init__(self, active: bool = True) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.pending = False

    def __enter__(self) -> "Interrupt":
        if self.active:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
