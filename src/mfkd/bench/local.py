"""Cells on this machine: a few processes that each do one cell after the other, with cores and GPUs shared out."""

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from mfkd.bench.cell import Cell

Worker = subprocess.Popen[str]


class Local:
    """Runs cells in processes of their own, so that a crash or a full memory costs one cell and no more.

    Args:
        jobs: processes at a time.
    """

    command = (sys.executable, "-m", "mfkd.bench.worker")

    def __init__(self, jobs: int = 1) -> None:
        self.slots = jobs
        self._workers: dict[int, Worker] = {}
        self._cells: dict[int, Cell] = {}
        self._ended: queue.Queue[tuple[int, Worker, str | None]] = queue.Queue()

    def start(self, cell: Cell) -> None:
        """Give a cell to a process that is free."""
        slot = next(slot for slot in range(self.slots) if slot not in self._cells)
        worker = self._workers.get(slot)
        if worker is not None and worker.poll() is not None:
            _close(worker)
            worker = None
        if worker is None:
            worker = self._workers[slot] = self._started(slot)
        self._cells[slot] = cell
        with suppress(BrokenPipeError):  # it died just now; the reader tells
            if worker.stdin is not None:
                worker.stdin.write(cell.model_dump_json() + "\n")
                worker.stdin.flush()

    def ended(self, patience: float) -> dict[str, str]:
        """Keys of cells that are no longer worked at, each with how its process died, or "".

        Args:
            patience: seconds to wait for the first one.
        """
        found: dict[str, str] = {}
        with suppress(queue.Empty):
            while True:
                slot, worker, key = self._ended.get(block=not found, timeout=patience)
                if self._workers.get(slot) is not worker:
                    continue  # one that died with nothing to do, and has been replaced
                if key is None:
                    _close(self._workers.pop(slot))
                if slot in self._cells:
                    found[self._cells.pop(slot).key] = "" if key is not None else _death(worker)
        return found

    def stop(self) -> None:
        """End everything: trainings stop between two updates with everything written; a second Ctrl-C kills them."""
        try:
            for worker in self._workers.values():
                _close(worker)
            for worker in self._workers.values():
                worker.wait()
        except KeyboardInterrupt:
            for worker in self._workers.values():
                worker.kill()
                worker.wait()
            raise
        finally:
            self._workers.clear()
            self._cells.clear()

    def _started(self, slot: int) -> Worker:
        worker = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **shares(slot, self.slots)},
            text=True,
            start_new_session=True,  # Ctrl-C is for the master, which closes their input
        )
        threading.Thread(target=self._listen, args=(slot, worker), daemon=True).start()
        return worker

    def _listen(self, slot: int, worker: Worker) -> None:
        if worker.stdout is not None:
            for line in worker.stdout:
                self._ended.put((slot, worker, line.strip()))
            worker.stdout.close()
        worker.wait()
        self._ended.put((slot, worker, None))


def shares(slot: int, slots: int) -> dict[str, str]:
    """What of cores and GPUs belongs to one of several processes, as environment variables.

    Args:
        slot: number of the process, from 0.
        slots: how many there are; one alone has everything.
    """
    if slots == 1:
        return {}
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(given) if given.isdecimal() else len(_cores())
    found = {"OMP_NUM_THREADS": str(max(1, cores // slots))}
    gpus = _gpus()
    if gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return found


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    """Those that this process may use, as CUDA names them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def _close(worker: Worker) -> None:
    """Close its input, after which it ends."""
    if worker.stdin is not None:
        with suppress(BrokenPipeError):
            worker.stdin.close()


def _death(worker: Worker) -> str:
    code = worker.wait()
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    more = ", as it does where memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{more}"
