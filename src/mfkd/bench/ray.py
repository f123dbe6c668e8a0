"""Cells on a Ray cluster: each is a task that Ray places and, when its worker or node dies, places again.

Nodes and this process share nothing but the folder of the bench, which all must see under one path. A cell that
is placed again finds its checkpoint there and goes on.
"""

import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mfkd.bench.cell import Cell
from mfkd.bench.worker import logged
from mfkd.errors import ConfigError
from mfkd.hardware import share_cores

RETRIES = 3  # times that a cell is placed again; the default of Ray itself
PATIENCE = 5.0  # seconds in which an address must answer
START = 60.0  # seconds in which a node must have started a worker
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and no settings
# Ray would look for a cluster where none is for more than a minute.
HASTE = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_py_gcs_connect_timeout_s": "5"}


class Ray:
    """Runs cells as tasks of a Ray cluster that this process is connected to, see `connected`.

    Args:
        ray: the library.
        mark: a file in the folder of the bench, by which a node tells whether it sees that folder.
        jobs: cells at a time; None: as many as the nodes have room for, which is asked anew each time.
        cpus: CPUs of a cell, which are also its threads.
        gpus: GPUs of a cell; a part of one may be shared.
    """

    def __init__(self, ray: Any, mark: Path, jobs: int | None, cpus: int, gpus: float) -> None:
        self.ray, self.mark, self.jobs, self.cpus = ray, mark, jobs, cpus
        self.needs = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_do)
        self._cells: dict[Any, Cell] = {}

    @property
    def slots(self) -> int:
        """Cells at a time."""
        return self.jobs or max(1, self.room())

    def room(self) -> int:
        """How many cells fit on the nodes that are there."""
        have = [node["Resources"] for node in self._nodes()]
        return sum(min(int(one.get(name, 0) / amount) for name, amount in self.needs.items()) for one in have)

    def start(self, cell: Cell) -> None:
        """Give a cell to Ray; its task has the name of the cell."""
        order = cell.model_dump_json(), str(Path.cwd()), str(self.mark), self.cpus
        task = self._task.options(name=cell.key).remote(*order)
        self._cells[task] = cell

    def ended(self, patience: float) -> dict[str, str]:
        """Keys of cells that are no longer worked at, each with why Ray gave it up, or "".

        Args:
            patience: seconds to wait for the first one.
        """
        over, _ = self.ray.wait(list(self._cells), timeout=patience)
        return {self._cells.pop(task).key: self._death(task) for task in over}

    def stop(self) -> None:
        """End everything: trainings stop between two updates with everything written; a second Ctrl-C kills them."""
        try:
            self._cancel(force=False)
        except KeyboardInterrupt:
            self._cancel(force=True)
            raise
        finally:
            self._cells.clear()

    def look(self) -> None:
        """Ask each node whether it can run mfkd and sees the folder.

        Raises:
            ConfigError: one that does not, or none that has what a cell needs.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = self.ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = {}
        for node in self._nodes():
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ask.options(scheduling_strategy=there).remote(str(Path.cwd()), str(self.mark))] = node
        for task, node in asked.items():
            name = node["NodeManagerHostname"]
            try:
                if not self.ray.get(task, timeout=START):
                    raise ConfigError(_unseen(name, self.mark.parent))
            except self.ray.exceptions.GetTimeoutError:
                text = f"node {name} of the Ray cluster started no worker within {START:g} s; see `ray status`."
                raise ConfigError(text) from None
            except self.ray.exceptions.RayError as error:
                why = _found(r"No module named \S+", str(error)) or _line(error)
                text = f"node {name} of the Ray cluster cannot run mfkd ({why}); install it there as it is here."
                raise ConfigError(text) from None
        if not self.jobs and not self.room():
            wanted = " and ".join(f"{amount:g} {name}s" for name, amount in self.needs.items())
            raise ConfigError(
                f"no node of the Ray cluster has the {wanted} that a cell is to have; ask for less with "
                "--cpus-per-cell and --gpus-per-cell, or, where the cluster grows by itself, give --jobs."
            )

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _cancel(self, force: bool) -> None:
        for task in self._cells:
            self.ray.cancel(task, force=force)
        if self._cells:
            self.ray.wait(list(self._cells), num_returns=len(self._cells))

    def _death(self, task: Any) -> str:
        try:
            self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:
            return ""
        except self.ray.exceptions.RayTaskError as error:
            return _line(error.cause)
        except self.ray.exceptions.WorkerCrashedError:
            return f"its worker died {RETRIES + 1} times"
        except self.ray.exceptions.RayError as error:
            return _line(error)
        return ""


@contextmanager
def connected(
    address: str, folder: Path, jobs: int | None = None, cpus: int = 1, gpus: float | None = None
) -> Iterator[Ray]:
    """A runner for the cells of a bench, while this process is connected to a cluster.

    Args:
        address: HOST:PORT of the head, or `auto` for the cluster that this machine is a node of.
        folder: that of the bench, on storage that all nodes see.
        jobs: cells at a time; None: as many as there is room for.
        cpus: CPUs of a cell.
        gpus: GPUs of a cell; None: one where the cluster has any, else none.

    Raises:
        ConfigError: Ray is not installed, no cluster there, or a node that cannot do its part.
    """
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise ConfigError(f"--gpus-per-cell is a part of one or a whole number, got {gpus:g}.")
    ray = _connect(address)
    mark = folder / f".ray-{secrets.token_hex(8)}"  # a name that no node can have looked for before
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
        if gpus is None:
            gpus = float(ray.cluster_resources().get("GPU", 0) > 0)
        runner = Ray(ray, mark, jobs, cpus, gpus)
        runner.look()
        yield runner
    finally:
        mark.unlink(missing_ok=True)
        ray.shutdown()


def _connect(address: str) -> Any:
    if address != "auto":
        _greet(address)
    for name, value in HASTE.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError("mfkd bench --ray needs Ray; run `pip install 'mfkd[ray]'`.") from None
    try:
        with _hushed():
            ray.init(address=address, configure_logging=False, log_to_driver=False)
    except (Exception, SystemExit) as error:  # Ray leaves the process where the head does not answer
        why = "it does not answer" if isinstance(error, SystemExit) else _line(error)
        raise _refusal(address, why) from None
    return ray


def _greet(address: str) -> None:
    """Whether there is a server at an address that speaks as Ray does, asked within seconds."""
    given = re.fullmatch(r"\[?([^\s/\[\]]+)\]?:(\d{1,5})", address)
    if given is None:
        raise ConfigError(f"--ray takes HOST:PORT of the cluster's head, or auto, got {address!r}.")
    try:
        with socket.create_connection((given[1], int(given[2])), timeout=PATIENCE) as server:
            server.sendall(GREETING)
            if server.recv(4)[3:] != b"\x04":  # settings, which open every HTTP/2 connection
                raise OSError("what answers there is not Ray")
    except (OSError, OverflowError) as error:
        raise _refusal(address, getattr(error, "strerror", None) or str(error)) from None


def _refusal(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"no Ray cluster at {address}: {why}; start one with `ray start --head`, join it on this machine with "
        "`ray start --address=HOST:PORT`, and give that address."
    )


def _do(order: str, place: str, mark: str, threads: int) -> None:
    """A cell, in a worker of Ray's."""
    if not _look(place, mark):
        raise ConfigError(_unseen(socket.gethostname(), Path(mark).parent))
    share_cores()  # Ray has started this process, not the command line
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    torch.set_num_threads(threads)
    logged(Cell.model_validate_json(order))


def _look(place: str, mark: str) -> bool:
    """Whether this node sees the folder of the bench; relative paths are meant from the master's folder."""
    with suppress(OSError):
        os.chdir(place)
    return Path(mark).exists()


def _unseen(node: str, folder: Path) -> str:
    return (
        f"node {node} of the Ray cluster does not see {Path(folder).absolute()}; "
        "choose with out= a folder on storage that all nodes have under the same path."
    )


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on the standard error, not even from C++: what is wrong is told in a line of ours."""
    before = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[0] if match else ""


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
