"""Cells on a real Ray cluster of this machine, on loopback: the same results as here, whatever dies on the way."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from mfkd.bench import ray as on_ray
from mfkd.bench.cell import attempt
from mfkd.bench.plan import cells, load_bench
from mfkd.errors import ConfigError
from mfkd.files import sha256
from mfkd.train import cost

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None or not sys.platform.startswith("linux"),
    reason="needs Ray (pip install 'mfkd[ray]') and Linux",
)
# One thread everywhere; and a head that listens on loopback only, which Ray does by itself on other systems.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "NO_COLOR": "1"}
PLAN = {
    "base": {
        "data": {"name": "digits", "fraction": 0.1},
        "teacher": {"model": "resnet14", "train": {"epochs": 1}},
        "student": {"model": "resnet8"},
        "train": {"epochs": 6, "batch_size": 32, "schedule": "constant"},
        "log": {"trackers": []},
    },
    "methods": ["kd", "mfkd"],
    "seeds": [0],
}
TIMES = (
    "seconds", "preparation_seconds", "shared_seconds", "images_per_second", "peak_mb", "latency_ms", "environment",
)  # fmt: skip


@pytest.fixture(scope="module")
def head():
    """HOST:PORT of a cluster with two CPUs, all of whose processes are of one session that ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # short, as sockets want it
        words = ["--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
        words += ["--disable-usage-stats", "--object-store-memory=100000000", f"--temp-dir={folder}"]
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *words]
        with (Path(folder) / "head.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait(lambda: answers(f"127.0.0.1:{port}"), 60)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for number in session(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What the plan gives on this machine."""
    folder = tmp_path_factory.mktemp("here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(cost, "SECONDS", 0.0)
        assert all(attempt(cell) and cell.done for cell in cells(load_bench({**PLAN, "out": "bench"})))
    torch.set_num_threads(threads)
    return results(folder / "bench")


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def answers(address):
    try:
        on_ray._greet(address)
    except ConfigError:
        return False
    return True


def session(leader):
    """Processes of a session, the fourth number after the name in their stat."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                found.append(int(stat.parent.name))
    return found


def results(folder):
    """Everything that counts of what cells leave: records but for what depends on the machine, digests of weights."""
    found = {}
    for path in [*folder.rglob("student.safetensors"), *folder.rglob("teacher.safetensors")]:
        found[str(path.relative_to(folder))] = sha256(path)
    for path in folder.rglob("record.json"):
        record = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        for point in (record["metrics"], record["last"], record["best"], *record["curves"]):
            for key in [key for key in point if key in TIMES]:
                del point[key]
        found[str(path.relative_to(folder))] = record
    return found


def start(head, folder):
    """`mfkd bench` on the cluster, from another folder than the head's and with a relative `out`."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "out": "bench"}))
    words = [sys.executable, "-m", "mfkd", "bench", "plan.yaml", "--ray", head]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def amid(folder):
    """Key and worker of a student that is amid its epochs, as Ray names its processes."""
    for log in (folder / "bench").glob("*/*/*/seed-*/log.csv"):
        if 3 <= len(log.read_text().splitlines()) <= 5:
            pair, method, _, seed = log.parent.relative_to(folder / "bench").parts
            for title in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    if title.read_bytes().startswith(f"ray::{pair}/{method}/{seed}".encode()):
                        return log.parent, int(title.parent.name)
    return None


@needs_ray
@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_and_the_results_are_those_of_this_machine(head, here, tmp_path):
    master = start(head, tmp_path / "there")
    try:
        folder, worker = wait(lambda: amid(tmp_path / "there"), 120)
        os.kill(worker, signal.SIGKILL)
        assert not (folder / "record.json").exists()
        out, errors = master.communicate(timeout=120)
    finally:
        master.kill()
    assert (master.returncode, [line[:5] for line in errors.splitlines()]) == (0, [f"[{n}/4]" for n in range(1, 5)])
    assert out.splitlines()[-1].startswith("Files: bench/bench.json")
    there = tmp_path / "there" / "bench"
    assert {cell["state"] for cell in json.loads((there / "bench.json").read_text())["cells"]} == {"done"}
    assert (folder / "output.log").read_text().count("epoch 1/6") == 1  # it went on
    assert len(here) == 2 * 4
    assert results(there) == here
    assert not list(there.glob(".ray-*"))


@needs_ray
@pytest.mark.slow
def test_ctrl_c_cancels_the_tasks_and_the_same_command_goes_on(head, here, tmp_path):
    master = start(head, tmp_path / "there")
    try:
        folder, _ = wait(lambda: amid(tmp_path / "there"), 120)
        master.send_signal(signal.SIGINT)
        _, errors = master.communicate(timeout=60)
        assert (master.returncode, errors.splitlines()[-1].startswith("mfkd: bench: stopped, ")) == (130, True)
        assert (folder / "checkpoints" / "last.pt").exists()
        assert not (folder / "record.json").exists()
        states = [cell["state"] for cell in json.loads((tmp_path / "there/bench/bench.json").read_text())["cells"]]
        assert {"done", "begun"} <= set(states) <= {"done", "begun", "waiting"}
        epochs = (folder / "log.csv").read_text()
        time.sleep(2)
        assert (folder / "log.csv").read_text() == epochs  # nobody works at it
        master = start(head, tmp_path / "there")
        master.communicate(timeout=120)
    finally:
        master.kill()
    assert master.returncode == 0
    assert results(tmp_path / "there" / "bench") == here


@needs_ray
def test_nodes_that_cannot_do_their_part_are_refused(head, tmp_path):
    script = """
import sys
from pathlib import Path
from mfkd.bench.ray import Ray, connected
from mfkd.errors import ConfigError
folder = Path(sys.argv[2])
with connected(sys.argv[1], folder) as runner:
    print(runner.slots, Ray(runner.ray, runner.mark, None, 2, 0.0).slots, Ray(runner.ray, runner.mark, 9, 1, 0.0).slots)
    for mark, cpus, gpus in ((folder / "nowhere" / "mark", 1, 0.0), (runner.mark, 64, 0.5)):
        try:
            Ray(runner.ray, mark, None, cpus, gpus).look()
        except ConfigError as error:
            print(error)
"""
    words = [sys.executable, "-c", script, head, str(tmp_path / "bench")]
    said = subprocess.run(words, check=False, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    name = socket.gethostname()
    assert said.stdout.splitlines() == [
        "2 1 9",
        f"node {name} of the Ray cluster does not see {tmp_path}/bench/nowhere; "
        "choose with out= a folder on storage that all nodes have under the same path.",
        "no node of the Ray cluster has the 64 CPUs and 0.5 GPUs that a cell is to have; ask for less with "
        "--cpus-per-cell and --gpus-per-cell, or, where the cluster grows by itself, give --jobs.",
    ]
    assert said.stderr == ""


def greet(server):
    with server.accept()[0] as client:
        client.sendall(b"220 mail\r\n")


def test_an_address_without_a_cluster_is_told_at_once(tmp_path):
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as other:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        threading.Thread(target=greet, args=(other,), daemon=True).start()
        for server, why in ((closed, "Connection refused"), (other, "what answers there is not Ray")):
            address = f"127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(ConfigError) as caught, on_ray.connected(address, tmp_path / "out"):
                pass
            assert str(caught.value) == (
                f"no Ray cluster at {address}: {why}; start one with `ray start --head`, join it on this machine with "
                "`ray start --address=HOST:PORT`, and give that address."
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", ":6379"])
def test_what_is_no_address_is_refused(address, tmp_path):
    with pytest.raises(ConfigError) as caught, on_ray.connected(address, tmp_path):
        pass
    assert str(caught.value) == f"--ray takes HOST:PORT of the cluster's head, or auto, got {address!r}."


def test_a_missing_extra_and_a_gpu_and_a_half_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as caught, on_ray.connected("auto", tmp_path):
        pass
    assert str(caught.value) == "mfkd bench --ray needs Ray; run `pip install 'mfkd[ray]'`."
    with pytest.raises(ConfigError) as caught, on_ray.connected("auto", tmp_path, gpus=1.5):
        pass
    assert str(caught.value) == "--gpus-per-cell is a part of one or a whole number, got 1.5."


class Fault(Exception):
    """What Ray tells of a task, in place of its own classes."""


def test_a_cell_that_ray_gives_up_fails_with_the_reason(tmp_path):
    kinds = {name: type(name, (Fault,), {}) for name in ("TaskCancelledError", "RayTaskError", "WorkerCrashedError")}
    told = kinds["RayTaskError"]("a traceback")
    told.cause = ConfigError("node n of the Ray cluster does not see it.")
    ends = [told, kinds["WorkerCrashedError"](), kinds["TaskCancelledError"](), Fault("The node died.\nID: 5"), None]

    def get(task):
        if task is not None:
            raise task

    remote = SimpleNamespace(options=lambda name: SimpleNamespace(remote=lambda *order: ends[int(name[-1])]))
    ray = SimpleNamespace(
        remote=lambda **options: lambda function: remote,
        exceptions=SimpleNamespace(RayError=Fault, **kinds),
        wait=lambda tasks, timeout: (tasks, []),
        get=get,
    )
    runner = on_ray.Ray(ray, tmp_path / "mark", 9, 1, 0.0)
    plan = {"out": str(tmp_path), "methods": ["kd"], "seeds": [0, 1, 2, 3, 4]}
    started = [cell for cell in cells(load_bench(plan)) if cell.method == "kd"]
    for cell in started:
        runner.start(cell)
    assert list(runner.ended(1.0).values()) == [
        "node n of the Ray cluster does not see it",
        "its worker died 4 times",
        "",
        "The node died",
        "",
    ]


def test_a_node_without_the_folder_fails_the_cell_and_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = cells(load_bench({"out": str(tmp_path / "out"), "methods": ["kd"]}))[1]
    with pytest.raises(ConfigError) as caught:
        on_ray._do(cell.model_dump_json(), str(tmp_path), "out/mark", 1)
    assert str(caught.value) == (
        f"node {socket.gethostname()} of the Ray cluster does not see {tmp_path}/out; "
        "choose with out= a folder on storage that all nodes have under the same path."
    )
    assert list(tmp_path.iterdir()) == []


def test_threads_of_a_worker_are_told_to_share_the_cores_before_torch_starts_them(tmp_path):
    script = """
import os, sys
def watch(event, found):
    if event == "import" and found[0] == "torch":
        print(os.environ.get("GOMP_SPINCOUNT"))
sys.addaudithook(watch)
from mfkd.bench.ray import _do
try:
    _do("no cell", sys.argv[1], "mark", 1)
except ValueError:
    print("torch" in sys.modules)
"""
    (tmp_path / "mark").touch()
    said_by_user = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in said_by_user}
    words = [sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(words, check=True, env=environment, capture_output=True, text=True, timeout=60)
    assert said.stdout.split() == ["10000", "True"]
