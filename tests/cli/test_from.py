"""`mfkd run --from`, and faults of the system that are not the user's."""

import errno
import json
import sys

import pytest

from mfkd import repeat
from mfkd.cli import main
from mfkd.train import cost


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)


def test_a_repetition_says_that_it_is_identical(finished, mfkd, tmp_path):
    folder, _, _ = finished
    result = mfkd("run", "--from", folder, f"out={tmp_path}/again")
    assert result.exit_code == 0, result.output
    digests = ", ".join(
        repeat.digest(folder / "distilled" / f"seed-{seed}" / "student.safetensors")[:12] for seed in (0, 1)
    )
    assert (
        f"Identical to {folder}: all weights of all students, to the bit (SHA-256 {digests})."
        in result.stdout.splitlines()
    )
    told = json.loads(mfkd("run", "--from", folder, f"out={tmp_path}/again", "--json").stdout)["repeated"]
    assert told["identical"] is True
    assert len(told["students"]) == 4


def test_another_result_is_told_with_what_differs_and_exit_code_1(finished, mfkd, tmp_path, monkeypatch):
    folder, _, _ = finished
    students = [{"kind": "alone", "seed": 0, "first": "a", "second": "a"}]
    students += [{"kind": "distilled", "seed": seed, "first": "a", "second": "b"} for seed in (0, 1)]
    found = {"identical": False, "students": students, "differences": [["torch", "2.0", "3.0"]]}
    monkeypatch.setattr(repeat, "compare", lambda *_: found)
    monkeypatch.setattr("mfkd.pipeline.run", lambda plan, say: json.loads((folder / "summary.json").read_text()))
    result = mfkd("run", "--from", folder, f"out={tmp_path}/again")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert f"Not identical to {folder}: the weights differ of distilled, seed 0; distilled, seed 1." in lines
    assert "Other than there: torch was 2.0 and is 3.0." in lines


def test_other_faults_of_the_system_keep_their_traceback(monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("mfkd.models.model_names", fail)
    monkeypatch.setattr(sys, "argv", ["mfkd", "models"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        main()
