"""How far our losses are from torchdistill's, in values and gradients.

`python tests/compare/measure.py` installs torchdistill into a temporary folder and writes
`docs/records/torchdistill.json`, from which `docs/methods.md` is made; a slow test asserts the same.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from cases import CASES, OTHERS, Case, Draw, Library  # beside this file
from torch import Tensor

from mfkd.records import environment

VERSION = "1.1.5"
RECORD = Path(__file__).parents[2] / "docs" / "records" / "torchdistill.json"
DRAWS = 5


@contextmanager
def installed() -> Iterator[Library]:
    """torchdistill from the package index, in a folder that goes away afterwards.

    Raises:
        CalledProcessError: pip cannot reach it.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["install", "--quiet", "--no-deps", "--target", folder, f"torchdistill=={VERSION}"]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True, text=True, timeout=120)
        sys.path.append(folder)
        try:
            from torchdistill.losses import mid_level
            from torchdistill.models import wrapper

            yield Library(mid_level, wrapper)
        finally:
            sys.path.remove(folder)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchdistill"]:
                del sys.modules[name]


def measure(one: Case, td: Library) -> dict[str, float]:
    """The largest difference over all draws, in values and in gradients to the student's side.

    Returns:
        absolute, relative: after the correction; relative to the largest number of torchdistill's.
        uncorrected: relative, before it.
    """
    found = {"absolute": 0.0, "relative": 0.0, "uncorrected": 0.0}
    for seed in range(DRAWS):
        torch.manual_seed(seed)  # weights and negatives come from the global generator
        for both in one.compared(td, Draw(seed)):
            values = [_with_gradients(value, both.inputs) for value in both[:3]]
            for ours, raw, corrected in zip(*values, strict=True):
                gap = float((ours - corrected).abs().max())
                found["absolute"] = max(found["absolute"], gap)
                found["relative"] = max(found["relative"], gap / float(corrected.abs().max()))
                before = float((ours - raw).abs().max() / raw.abs().max())
                found["uncorrected"] = max(found["uncorrected"], before)
    return found


def _with_gradients(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(value, inputs, retain_graph=True) if inputs else ()
    return [value.detach(), *gradients]


def write() -> None:
    """Measure all and write the record."""
    with installed() as td:
        rows = [
            {
                "method": one.method,
                "theirs": one.theirs,
                "correction": one.correction,
                "note": one.note,
                "tolerance": one.tolerance,
                **measure(one, td),
            }
            for one in CASES
        ]
    found = environment("cpu")
    about = {"torchdistill": VERSION, "torch": found["versions"]["torch"], "commit": found["commit"]}
    about["others"] = sorted(set(OTHERS.values()) - {""})
    RECORD.write_text(json.dumps({**about, "draws": DRAWS, "dtype": "float64", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    write()
