"""One small finished run, shared by all tests of the command line."""

import shutil

import pytest
from typer.testing import CliRunner

from mfkd.cli import app

SMALL = ["train.epochs=1", "teacher.train.epochs=1", "data.fraction=0.2", "data.val_fraction=0.1", "seeds=[0,1]"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(run folder, arguments that lead there, what `mfkd run` printed)."""
    folder = tmp_path_factory.mktemp("finished") / "a[bold]b"
    words = [*SMALL, "log.trackers=[]", f"out={folder}"]
    result = CliRunner().invoke(app, ["run", *words], catch_exceptions=False)
    assert result.exit_code == 0
    yield folder, words, result
    shutil.rmtree(folder)


@pytest.fixture
def mfkd(tmp_path, monkeypatch):
    """Call the command line in an empty folder, as `main` does; gives typer's result."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        return CliRunner().invoke(app, list(map(str, words)))

    return call
