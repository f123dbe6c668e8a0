# ruff: noqa: T201
"""Looks at the networks in `zoo_networks.py` one by one and writes `docs/models.json` and, from it, `docs/models.md`.

`python docs/models.py` takes about a quarter of an hour on one core, `python docs/models.py NAME ...` looks again at
some networks alone. Where taps are others than those in `tests/contract/taps.csv`, it says so and goes on; `--pin`
makes the new ones the expected ones.
"""

import csv
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo_checks import LEVELS, examine  # beside this file
from zoo_networks import EXCEPTIONS, NETWORKS, UNUSED

HERE = Path(__file__).parent
PAGE, RECORD = HERE / "models.md", HERE / "models.json"
PINS = HERE.parent / "tests" / "contract" / "taps.csv"
HEAD = """# Networks that were tried

Every network below was built with random weights and {classes} classes, for the smallest sensible image, and looked at
by `python docs/models.py`, which wrote this page ({versions}). For each one:

- `front`, `middle` and `bottom` were found without being told, at three different places, and the same ones after all
  weights were changed;
- `bottom` is the network's own final feature map: what the column *final features* names, or that before the norm named
  there. Tokens are compared without class and register tokens;
- noise on what the tapped module gives (or gets) changes the logits. Where it does so only through other tensors or
  tokens, such as the class token, of which the head alone is fed after the last block, a remark says so;
- one step of MFKD with the network as teacher of `resnet8` has a finite loss, every parameter of the student gets a
  gradient and the teacher stays bit for bit as it was; and with the network as student of `resnet8`, every parameter of
  it gets a gradient, but those in the last table.

The module paths are pinned in `tests/contract/taps.csv`; a test fails where one changes. `mfkd taps NAME`
shows all taps of a network, with the reason for each. "[1]" is the second of several tensors that a module gives.
"""


def pins() -> dict[str, list[str]]:
    """The expected module paths by network."""
    with PINS.open(newline="") as file:
        return {row["network"]: [row[level] for level in LEVELS] for row in csv.DictReader(file)}


def page(record: Mapping[str, dict[str, Any]]) -> str:
    """The whole page; `record` has a row for each network."""
    rows = [record[name] for name in NETWORKS if name in record]
    text = HEAD.format(classes=5, versions="; ".join(sorted({row["versions"] for row in rows})))
    head = ["network", "image", "maps", *LEVELS, "final features", "parameters", "remarks"]
    cells = [
        [
            *(row["network"], str(row["size"]), row["kind"]),
            *(f"`{path}` {shape}" for path, shape in zip(row["paths"], row["shapes"], strict=True)),
            *(row["final"], f"{row['parameters']:,}", "; ".join(row["notes"])),
        ]
        for row in rows
    ]
    text += f"\n{len(rows)} networks, none failed.\n\n{_table(head, cells)}"
    text += "\n## What does not work\n\n"
    text += _table(["network", "what is seen", "why"], ([name, e.fails, e.reason] for name, e in EXCEPTIONS.items()))
    text += "\n## Parameters that get no gradient\n\n"
    return text + _table(
        ["network", "parameters", "why"],
        ([name, f"`{pattern}`", why] for name, found in UNUSED.items() for pattern, why in found.items()),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: Sequence[str]) -> int:
    """Look, report and write; 1 where a network failed."""
    names = [argument for argument in arguments if argument != "--pin"] or list(NETWORKS)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    expected, failed = pins() if PINS.exists() else {}, 0
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    for name in names:
        record.pop(name, None)
        try:
            row = examine(name)
        except Exception as error:  # one network must not end the tour
            failed += 1
            print(f"{name}: FAILED, {type(error).__name__}: {error}", flush=True)
            continue
        record[name] = asdict(row) | {"versions": f"{versions}, Python {platform.python_version()}"}
        was = expected.get(name)
        changed = f", WAS {was}" if was is not None and was != row.paths else ""
        unused = f", without gradient: {row.unused}" if row.unused else ""
        print(f"{name}: {row.paths}{changed}, {row.final}{unused}, {row.seconds:.0f} s", flush=True)
        RECORD.write_text(json.dumps({one: record[one] for one in NETWORKS if one in record}, indent=1) + "\n")
    PAGE.write_text(page(record))
    if "--pin" in arguments:
        with PINS.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["network", *LEVELS])
            writer.writerows([name, *record[name]["paths"]] for name in NETWORKS if name in record)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
