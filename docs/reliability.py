"""Writes `docs/reliability.md` from `docs/records/reliability.json`: no figure in it is typed by hand.

Run `python docs/reliability.py` after `python tests/fault/campaign.py`; a test checks that page and record agree.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Reliability

`python tests/fault/campaign.py` kills tiny runs with SIGKILL, at every operation on their files (writes are torn in the
middle) and at random moments, starts them again, and compares with an uninterrupted run: SHA-256 of all weights and of
the knowledge cache, every column of every log, every field of every record and of the summary, times left out. The
table below is made from what it wrote. A short form of it is part of the tests.
"""
MEANING = {
    "cache": "MFKD with calibration, knowledge cache, EMA, accumulation",
    "live": "CRD's memory, AB's stage, mixup, AdamW",
    "folder": "image files read by two processes",
}


def page() -> str:
    """The whole page."""
    record = json.loads((HERE / "records" / "reliability.json").read_text())
    return HEAD + "".join(map(_section, record["rows"])) + _under(record)


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


if __name__ == "__main__":
    (HERE / "reliability.md").write_text(page())
