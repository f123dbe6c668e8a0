"""One run folder, one writer; what a full or closed disk leaves."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from mfkd import pipeline
from mfkd.config import load_config
from mfkd.errors import ConfigError, MfkdError
from mfkd.files import locked
from mfkd.plan import open_plan
from mfkd.train import cost
from mfkd.train.interrupt import Interrupted
from mfkd.train.runtime import together

TINY = (
    "data.name=digits", "data.fraction=0.1", "teacher.model=resnet8", "student.model=resnet8", "train.epochs=1",
    "train.batch_size=32", "log.trackers=[]", "teacher.train.epochs=1", "train.compile=false",
)  # fmt: skip


@pytest.fixture
def plan(tmp_path):
    return open_plan(load_config(None, [*TINY, f"out={tmp_path}/run"]))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(pipeline, "PATIENCE", 0.0)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_second_process_is_refused_in_one_line_and_changes_nothing(plan, impatient):
    code = f"from filelock import FileLock\nwith FileLock({str(plan.folder / '.lock')!r}): print(flush=True); input()"
    plan.folder.mkdir()
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(ConfigError) as caught, pipeline.claimed(plan):
            pytest.fail("two writers")
        assert str(caught.value) == (
            f"{plan.folder} is being written by another process; wait for its end, or choose another folder with out=."
        )
        assert files(plan.folder) == {}
        other.kill()
        other.wait()
    with pipeline.claimed(plan):  # the lock has died with it
        assert (plan.folder / "config.yaml").exists()


def test_the_block_holds_the_lock_and_gives_it_back(plan, impatient):
    with pipeline.claimed(plan):
        busy = FileLock(plan.folder / ".lock", timeout=0)
        with pytest.raises(TimeoutError):
            busy.acquire()
    with pipeline.claimed(plan):
        pass


def test_a_folder_that_was_claimed_meanwhile_is_looked_at_again(plan, monkeypatch):
    other = open_plan(load_config(None, [*TINY, f"out={plan.folder}", "train.lr=0.3"]))
    real = pipeline.rehearse
    monkeypatch.setattr(pipeline, "rehearse", lambda plan: (real(plan), pipeline.claim_folder(other)))
    monkeypatch.setattr(pipeline, "claim_folder", lambda plan: (monkeypatch.undo(), pipeline.claim_folder(plan)))
    with pytest.raises(ConfigError, match=r"train.lr is 0.3 there and 0.05 here"), pipeline.claimed(plan):
        pytest.fail("went on")


def test_what_killed_processes_left_is_swept(plan):
    left = plan.folder / "teacher" / "checkpoints" / ".last.pt.12.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with pipeline.claimed(plan):
        assert not left.exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_outside_of_trainings_ends_the_run_in_one_line(plan, signum, code):
    with pytest.raises(Interrupted) as caught, pipeline.claimed(plan):
        signal.raise_signal(signum)
    assert str(caught.value) == f"stopped; the same command goes on. Everything is in {plan.folder}."
    assert caught.value.code == code


def test_threads_leave_signals_alone(plan):
    found = []

    def work():
        with pipeline.claimed(plan):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_the_end_of_another_process_is_told_and_other_faults_are_not_hidden(monkeypatch):
    text = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    for initialised, kind in ((True, MfkdError), (False, RuntimeError)):
        monkeypatch.setattr("torch.distributed.is_initialized", lambda value=initialised: value)
        with pytest.raises(kind), together():
            raise RuntimeError(text)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="shape"), together():
        raise RuntimeError("a shape does not fit")


def test_a_folder_that_cannot_be_written_is_told_by_the_lock(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(MfkdError) as caught, locked(tmp_path / "file" / "x" / ".lock", MfkdError("busy")):
        pytest.fail("went on")
    assert str(caught.value).startswith(f"cannot write {tmp_path}/file/x: ")
    assert str(caught.value).endswith("; free space or choose another folder with out=.")


def start(words, cwd, before=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "mfkd", "run", *words]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=cwd, env=environment, preexec_fn=before, timeout=200
    )


def test_a_disk_that_takes_no_more_ends_with_one_line_and_every_earlier_file(tmp_path):
    """No file may grow beyond what recipe and log need, so that the first checkpoint fails as on a full disk."""
    words = [*TINY, "out=run"]

    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = start(words, tmp_path, small)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "mfkd: error: cannot write run/teacher/checkpoints/last.pt: File too large; "
        "free space or choose another folder with out=."
    )
    assert "Traceback" not in done.stderr
    before = files(tmp_path)
    assert [path.name for path in before] == ["config.yaml"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
        (errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_every_write_of_a_run_may_fail_and_leaves_the_earlier_files(plan, monkeypatch, number, told):
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    before, fails, real = {}, [], os.fsync
    at = {errno.ENOSPC: 3, errno.EROFS: 9, errno.EACCES: 14, errno.EDQUOT: 20}[number]

    def fsync(fd):
        fails.append(1)
        if len(fails) == at:
            before.update(files(plan.folder))
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(MfkdError, match=f"cannot write .*: {told}; free space or choose another folder with out="):
        pipeline.run(plan, lambda _: None)
    monkeypatch.undo()
    left = files(plan.folder)
    assert all(left[path] == content for path, content in before.items() if not path.name.endswith(".tmp"))
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    pipeline.run(plan, lambda _: None)
    assert (plan.folder / "summary.json").exists()
