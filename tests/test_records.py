import json
import subprocess
from importlib.metadata import version

import pytest

from mfkd import records
from mfkd.errors import MfkdError
from mfkd.records import RunRecord, commit, environment


def record(**values):
    return RunRecord(
        kind="alone", config={"a": 1}, config_hash="0123456789ab", seed=3, training={"epochs": 1}, **values
    )


def test_round_trip(tmp_path):
    first = record(curves=[{"epoch": 1, "loss": 0.1 + 0.2}], notes=["off"], metrics={"top1": 12.5}, seconds=1.25)
    first.save(tmp_path / "record.json")
    assert RunRecord.load(tmp_path / "record.json") == first
    assert json.loads((tmp_path / "record.json").read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"kind": "alone"}', "config: Field required"),
        ("[1]", ": Input should be a valid dictionary"),
        ('{"kind": 1}', "kind: Input should be a valid string"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, text, reason):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(MfkdError) as caught:
        RunRecord.load(path)
    assert str(caught.value).startswith(f"{path} is not a run record ({reason}")
    assert str(caught.value).endswith("); delete it and run again.")


def test_an_unknown_key_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(MfkdError, match=r"does not exist; is .* a finished run folder"):
        RunRecord.load(path)
    path.write_text(json.dumps({**record().model_dump(), "extra": 1}))
    with pytest.raises(MfkdError, match=r"is not a run record \(extra: "):
        RunRecord.load(path)


def test_environment_names_versions_hardware_and_time():
    found = environment("cpu")
    assert found["versions"]["torch"] == version("torch")
    assert found["versions"].keys() == set(records.PACKAGES)
    assert found["processor"]
    assert found["device"] == "cpu"
    assert found["finished"].endswith("+00:00")
    json.dumps(found)


def test_commit_of_a_checkout_tells_changes(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    here = tmp_path / "src" / "mfkd"
    here.mkdir(parents=True)
    (here / "records.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    monkeypatch.setattr(records, "__file__", str(here / "records.py"))
    commit.cache_clear()
    try:
        assert commit() == git("rev-parse", "--short=12", "HEAD")
        (here / "records.py").write_text("2")
        commit.cache_clear()
        assert commit() == git("rev-parse", "--short=12", "HEAD") + "+"
        commit.cache_clear()
        monkeypatch.setattr(records, "__file__", str(tmp_path / "site-packages" / "mfkd" / "records.py"))
        assert commit() is None
    finally:
        commit.cache_clear()
