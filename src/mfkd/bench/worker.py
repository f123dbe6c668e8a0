"""`python -m mfkd.bench.worker`: does one cell after the other as they come in, a line of JSON each.

It answers with the cell's key once the cell's folder says how it went. When its input is closed, by
a master that stops or dies, a training that runs is ended as by Ctrl-C: with everything written.
"""

import os
import queue
import signal
import sys
import threading
from contextlib import suppress

from mfkd.bench.cell import Cell, attempt


def serve() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever prints, prints into the cell's log
    orders: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(orders, busy), daemon=True).start()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        while (order := orders.get()) is not None:
            busy.set()
            cell = Cell.model_validate_json(order)
            finished = logged(cell)
            busy.clear()
            if not finished:
                break
            answers.write(f"{cell.key}\n")
    sys.stderr.flush()


def _listen(orders: "queue.Queue[str | None]", busy: threading.Event) -> None:
    for line in sys.stdin:
        orders.put(line)
    orders.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGINT)


def logged(cell: Cell) -> bool:
    """Do a cell with all output, that of libraries too, going into its log."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    with cell.log.open("ab") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
        try:
            return attempt(cell)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(before, 2)
            os.dup2(before, 1)
            os.close(before)


if __name__ == "__main__":
    serve()
