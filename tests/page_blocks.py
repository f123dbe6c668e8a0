"""The fenced blocks of a page, run as a reader runs them: in order, in one folder, with `mfkd` on the path.

- `sh` is run by bash (-euo pipefail), `python` by the interpreter.
- A `python`, `yaml` or `toml` block whose first line is `# NAME` is written to that file; such Python is not run by
  itself. Other YAML and TOML must be readable. Blocks of other languages, or none, are output.
- `<!-- not run: REASON -->` on the line above leaves a block out; `<!-- ci: ... -->` too, for CI runs it.
- `<!-- output -->` above a block of output: it is what the block before it printed.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass

import yaml

RUN = ("sh", "python")
PARSED = {"yaml": yaml.safe_load, "toml": tomllib.loads}
FENCE = re.compile(r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.M | re.S)
NAMED = re.compile(r"# ([\w/-]+\.(?:py|ya?ml|toml))\n")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, text, the line of the page where it starts, and the comment above it."""

    language: str
    code: str
    line: int
    mark: str = ""

    @property
    def left_out(self):
        """Why the block is not run; empty for one that is."""
        kind, _, reason = self.mark.partition(": ")
        return reason if self.language in RUN and kind in ("not run", "ci") else ""

    @property
    def file(self):
        """Name of the file that the block is; empty for one that is none."""
        found = NAMED.match(self.code) if self.language in ("python", *PARSED) else None
        return found[1] if found else ""


def blocks(text):
    """All fenced blocks of a page, in order."""
    return [
        Block(found["language"], found["code"], text[: found.start("language")].count("\n") + 1, found["mark"] or "")
        for found in FENCE.finditer(text)
    ]


def run_page(text, folder, *, seconds=300):
    """Run the blocks of a page in `folder`.

    Returns:
        The blocks that were run, and the reasons of those that were left out.

    Raises:
        AssertionError: a block failed, took longer than `seconds`, or printed something else than the page shows.
    """
    ran, left_out, printed = [], [], ""
    for block in blocks(text):
        if block.left_out:
            left_out.append(block.left_out)
        elif block.file:
            target = folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code, encoding="utf-8")
        elif block.language in RUN:
            printed = _run(block, folder, seconds)
            ran.append(block)
        elif block.language in PARSED:
            PARSED[block.language](block.code)
        elif block.mark == "output":
            assert _lines(printed) == _lines(block.code), f"line {block.line}: the block before it printed\n{printed}"
    return ran, left_out


def _lines(text):
    return [line.rstrip() for line in text.strip().splitlines()]


def _run(block, folder, seconds):
    shims = folder / ".bin"
    if not shims.exists():
        shims.mkdir()
        for name, words in {"mfkd": "-m mfkd", "python": ""}.items():
            (shims / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
            (shims / name).chmod(0o755)
    words = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
    environment = os.environ | {
        "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",  # nothing is downloaded
    }
    with (folder / ".printed").open("w+") as out, (folder / ".said").open("w+") as said:
        process = subprocess.Popen(
            [*words, block.code], cwd=folder, env=environment, stdout=out, stderr=said, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = f"none within {seconds} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever the block has left behind
            process.wait()
        out.seek(0)
        said.seek(0)
        printed, complaint = out.read(), said.read()
    assert code == 0, f"line {block.line}: exit code {code} of\n{block.code}\n{printed[-1000:]}\n{complaint[-2000:]}"
    return printed
