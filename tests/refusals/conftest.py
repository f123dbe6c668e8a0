"""The command line refused: one line, exit code 2, no traceback, and every file as it was."""

import hashlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mfkd.cli import main

Refused = Callable[..., str]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file, folder and link below a folder with what it holds."""

    def content(path: Path) -> str:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"

    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder below a home that is empty too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def refused(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run `mfkd WORDS` in this process; gives what stands after `mfkd: error: `."""

    def call(*words: object) -> str:
        before, handlers = snapshot(place.parent), list(logging.getLogger().handlers)
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["mfkd", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert (caught.value.code, err.count("\n"), out) == (2, 1, ""), err + out
        assert snapshot(place.parent) == before
        assert logging.getLogger().handlers == handlers
        return err.removesuffix("\n").removeprefix("mfkd: error: ")

    return call
