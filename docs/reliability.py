"""Writes `docs/reliability.md` from `docs/records/reliability.json`: no figure in it is typed by hand.

Run `python docs/reliability.py` after `python tests/fault/campaign.py`; a test checks that page and record agree.
"""

import json
import runpy
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Reliability

`python tests/fault/campaign.py` kills tiny runs with SIGKILL, at every operation on their files (writes are torn in the
middle) and at random moments, starts them again, and compares with an uninterrupted run: SHA-256 of all weights and of
the knowledge cache, every column of every log, every field of every record and of the summary, times left out. The
table below is made from what it wrote. A short form of it is part of the tests.
"""
TAIL = """
## Bad input

Every refusal is one line that says who, what was got and what was expected, with exit code 2 and no traceback, and
before a file is written. `tests/refusals` holds the table: every key of a recipe out of its range, of another type and
misspelt (a test walks through the recipe's model, so that a new key without rows fails), recipes that contradict
themselves, and the images, folders, tables and weights below.

| what | what happens |
|---|---|
| empty class folder, one class, classes that differ between the splits, no test images | refused |
| zero bytes, truncated, no image at all, a decompression bomb, NaN in it | refused by path or row; or left out |
| CMYK, 16 bits, palettes, one bit, animated | read; of an animation the first frame |
| grey values below 0 or beyond 16 bits, or as fractions up to 1 | refused by path or row, not clipped; or left out |
| labels that are missing, beyond the classes, or lists; columns or classes that differ | refused by row or file |
| NaN or infinity in weights, a recipe, the loss, a teacher's knowledge | refused by the name of tensor or term |
| images that are trained on and tested on | a warning with their number and the first ten, and a note in the records |
| a teacher worse than the student alone | a warning with both figures by `mfkd run`, and in `summary.json` |

- **`data.unreadable: error`** (the default) refuses an image when it is read: small images before anything is written,
  large ones (read anew for each batch) in the first epoch at the latest. The run goes on from its last checkpoint once
  the image is repaired.
- **`data.unreadable: skip`** decodes every image once before the training, and leaves out those that cannot be read.
  Their number and the first ten stand in the log and in the records (`notes`), all of them in `unreadable.txt` of the
  run folder. A class or a split of which nothing is left is refused. The others keep their rows, so that they are
  augmented as before. What was found is remembered in `checked/` below `data.root` by path, size and time of change:
  the next start looks at these alone, and one of several processes looks for all. An image that a failing disk, missing
  permission or too little memory keeps from being read may be sound: it is refused, not left out.
- **The same image in training and test** is found to the byte in files (by size, then the first 4 KB, then a hash; this
  is remembered too) and to the pixel in memory.

## Files from others

Nothing in these files is executed, whatever they hold: weights, checkpoints, the knowledge cache, recipes, plans,
records, run folders, exports, images, tables. `tests/refusals/test_untrusted.py` tries pickles, scripts and YAML tags
in the place of each of them, with the commands that read them.

- Pickles are read with `weights_only=True`, or refused. YAML makes plain values alone. A program of torch (`model.pt2`)
  is opened by the export that has just written it and by nothing else.
- Files of a cache are numbered: a name in its manifest is no path. A cache with a link in it is not built further; run
  folders are written by renaming, which replaces a link and leaves alone what it leads to. A graph reads no weights
  outside of its folder, a table no image outside of its own.
- Lengths in headers (safetensors, images) are checked before memory is taken.
- `tests/fuzz` damages recipes, overrides, plans, weights, caches, records and checkpoints, byte by byte and value by
  value under checksums that hold: each must be of use, or refused in one line within a minute. 15 to 150 cases a kind
  are tried with every change, 2,000 to 3,000 by `pytest -m slow tests/fuzz`.
- **The exception** is a network of your own, `file.py:factory` or `package.module:factory`. What you name yourself is
  run: on the command line, in `build_model`, **and in a recipe that you start. A recipe from others may name code too,
  so read it before you start it.** What a weights file or a run folder names (`mfkd predict`, `evaluate`, `export`,
  `latency`, `serve`, `report`, `push`, `run --from`, `load_student`) is run only if you named the very same code in a
  training on this machine before: file, factory and all neighbours that it imports, to the byte. Else it is refused in
  one line, with exit code 2, that names the file and its SHA-256. Look at it; then `MFKD_TRUST_CODE=1 mfkd predict ...`
  or `load_student(path, trust_code=True)` runs it, this once.
- What you named stands in `~/.cache/mfkd/trusted` (mode 0600), a digest a line; delete lines, or the file, as you like.
  It is written when a training starts; without a home that can be written it is left out, and the training goes on.
- Watched is what is imported while the network is built. Packages that are installed run as they are, but one that a
  weights file names as its network must have been named by you as well. Python's own modules and torch are refused.
"""
MEANING = {
    "cache": "MFKD with calibration, knowledge cache, EMA, accumulation",
    "live": "CRD's memory, AB's stage, mixup, AdamW",
    "folder": "image files read by two processes",
}
COUNTED = {
    "handles": "open files",
    "threads": "threads",
    "children": "child processes",
    "files": "files left in the temporary folder",
}


def page() -> str:
    """The whole page."""
    record = json.loads((HERE / "records" / "reliability.json").read_text())
    soak = HERE / "records" / "soak.json"
    told = _soak(json.loads(soak.read_text())) if soak.exists() else ""
    return HEAD + "".join(map(_section, record["rows"])) + _under(record) + told + TAIL


def _section(row: dict[str, Any]) -> str:
    killed = {name: (row["at_operation"][name], row["at_random"][name]) for name in row["at_operation"]}
    stages = [(name, *counts) for name, counts in killed.items() if any(counts)]
    operations = ", ".join(f"{name} {count}" for name, count in sorted(row["by_operation"].items()))
    lines = [f"| {name} | {at} | {random} | `{'#' * -(-(at + random) // 4)}` |" for name, at, random in stages]
    total = [sum(counts) for counts in zip(*killed.values(), strict=True)]
    differing = len(row["differing"])
    return "\n".join(
        [
            f"\n## {MEANING[row['recipe']]}\n",
            "| the run was at | kills at an operation | at a random moment | # is 4 kills |",
            "|---|---|---|---|",
            *lines,
            f"| **all** | **{total[0]}** | **{total[1]}** | |",
            "",
            f"**{differing} of {row['trials']} trials ended with another result.** A trial is one kill, or several "
            f"random ones in a row. The run does {row['operations']} operations in {row['seconds']:g} s; killed at: "
            f"{operations}.",
            "",
        ]
    )


def _under(record: dict[str, Any]) -> str:
    environment = record["environment"]
    return (
        f"\nOn {environment['threads']} thread{'s' * (environment['threads'] > 1)} of {environment['processor']}, "
        f"Python {environment['python']}, torch {environment['versions']['torch']}, commit {environment['commit']}.\n"
    )


def _soak(record: dict[str, Any]) -> str:
    memory, counts, rounds = record["memory"], record["counts"], record["rounds"]
    first, last = rounds[record["warm"]], rounds[-1]
    rows = [f"| {COUNTED[name]} | {first[name]:g} | {last[name]:g} | {max(counts[name]):g} |" for name in counts]
    low, high = (1000 * value for value in memory["interval"])
    largest = max(one["memory"] for one in rounds[record["warm"] :])
    growing = ", ".join(record["growing"])
    least = 1000 * runpy.run_path(str(HERE.parent / "benchmarks" / "soak.py"))["LEAST"]
    verdict = f"{growing} grows" if growing else f"No count grows, and memory by less than {least:g} kB a round"
    return "\n".join(
        [
            "\n## Many runs in one process\n",
            f"`python benchmarks/soak.py` did {len(rounds)} rounds in {record['minutes']:g} minutes. A round is "
            f"{len(record['recipes'])} tiny runs ({', '.join(record['recipes'])}), an export, predictions, and each "
            f"run once more out of its finished folder. The first {record['warm']} rounds are left out.",
            "",
            "| | first round | last round | largest |",
            "|---|---|---|---|",
            *rows,
            f"| memory, MB | {first['memory']:.0f} | {last['memory']:.0f} | {largest:.0f} |",
            "",
            f"Memory changes by {1000 * memory['slope']:+.1f} kB a round (99% interval {low:+.1f} to {high:+.1f}; "
            f"rounds scatter by {memory['spread']:.1f} MB around that line). **{verdict}.** A leaked student would "
            "be 310 kB. Torch keeps 0.3 MB of an ONNX export in a process, for which reason the export has a process "
            "of its own here.",
            _under(record),
        ]
    )


if __name__ == "__main__":
    (HERE / "reliability.md").write_text(page())
