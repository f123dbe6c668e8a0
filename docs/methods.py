"""Writes `docs/methods.md` from the heads and options of the method files and from `docs/records/torchdistill.json`.

Run `python docs/methods.py` after changing a method, its options or that record (`python
tests/compare/measure.py`); a test checks that the page says what they say.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

from mfkd.methods import METHODS, PRESETS
from mfkd.methods.describe import cite, details, overview, shown

HERE = Path(__file__).parent
HEAD = """# Methods

Written by `python docs/methods.py` from the method files themselves. `mfkd methods` shows the first table, `mfkd
methods NAME` what is said of one.

- **weight** is the default, and it is the published one for 32 px images (CIFAR-100) wherever there is one; the tables
  of options name the source.
- **needs** is told for the default options, as seen by building the method with and without each thing: *map* and
  *maps* of the networks' stages; *vector*, what the classifier gets; *logits* of a teacher with the student's classes;
  *labels* of the batch; *index*, the rows of its images; *all labels* of the training set; *stage before training*, in
  which a part beside the teacher, or the student's own layers, are trained.
- Any methods can be combined with any others: `method: {mfkd: {weight: 16}, dkd: {beta: 8}}`. The key `ce` sets the
  weight of the cross-entropy, 1 unless said otherwise.
- Every method on logits has `logit_std`, the standardisation of Sun, Ren, Li, Wang and Cao, CVPR 2024
  ([2403.01427](https://arxiv.org/abs/2403.01427)).
- Accuracies of all of them on one small data set are in [results.md](results.md).
"""
AGREEMENT = """## Agreement with torchdistill

PyPI's torchdistill {torchdistill} has {count} of these {all} methods; its other losses are those of {rest},
which are not here. `tests/compare` gives both the same random numbers in {dtype} ({draws} draws each) and compares
values, gradients to the student's side and, where they are parts of a method, modules with the same weights. The
columns are the largest difference, relative to torchdistill's largest number: *as it is*, and after the *correction*
that undoes a fault or a choice of torchdistill, which we name and do not follow; *absolute* is that after the
correction. Measured with torch {torch}.
"""


def page() -> str:
    """The whole page."""
    record = json.loads((HERE / "records" / "torchdistill.json").read_text())
    rows = [row for row in overview() if row["method"] in METHODS]
    parts = [HEAD, _overview(rows), _presets(), _agreement(record)]
    parts += [_method(details(row["method"]), _compared(record, row["method"])) for row in rows]
    return "\n".join(parts)


def _overview(rows: list[dict[str, Any]]) -> str:
    lines = ["| method | idea | paper | weight | needs |", "|---" * 5 + "|"]
    for row in rows:
        link = f"[{cite(row['paper'])}]({_address(row['paper'])})"
        lines.append(
            f"| [`{row['method']}`](#{row['method']}) | {row['idea']} | {link} | {row['weight']:g} "
            f"| {', '.join(row['needs'])} |"
        )
    return "\n".join(lines) + "\n"


def _presets() -> str:
    lines = ["A name alone stands for that method with its defaults, but for these presets:", ""]
    for name, parts in PRESETS.items():
        written = yaml.safe_dump(parts, default_flow_style=True, sort_keys=False, width=1000).strip()
        lines.append(f"- `{name}`: " + (f"`{written}`" if parts else "plain training, without a teacher"))
    return "\n".join(lines) + "\n"


def _agreement(record: dict[str, Any]) -> str:
    compared = {_name(row) for row in record["rows"]}
    rest = " and ".join([", ".join(record["others"][:-1]), record["others"][-1]])
    lines = [AGREEMENT.format(**record, count=len(compared), all=len(METHODS), rest=rest)]
    lines += ["| method | torchdistill's class | as it is | corrected | absolute |", "|---" * 5 + "|"]
    for row in record["rows"]:
        before = _figure(row["uncorrected"])
        after = _figure(row["relative"]) if row["correction"] else "-"
        link = f"[{row['method']}](#{_name(row)})"
        lines.append(f"| {link} | `{row['theirs']}` | {before} | {after} | {_figure(row['absolute'])} |")
    missing = ", ".join(f"`{name}`" for name in METHODS if name not in compared)
    lines += ["", *_wrapped(f"Not in torchdistill, and held to a slow reference of our own instead: {missing}.")]
    return "\n".join(lines) + "\n"


def _compared(record: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [row for row in record["rows"] if _name(row) == method]


def _method(found: dict[str, Any], compared: list[dict[str, Any]]) -> str:
    name = found["method"]
    lines = [f"## {name}", "", *_wrapped(_sentence(found["idea"])), ""]
    lines += _wrapped(f"*Paper:* {_linked(found['paper'])}.", "- ")
    lines += _wrapped(f"*Needs:* {', '.join(found['needs'])}.{_taps(found)}", "- ")
    lines += _wrapped(f"*Deviates:* {_sentence(found['deviates'])}", "- ")
    for row in compared:
        lines += _wrapped(f"*torchdistill:* {_told(row)}", "- ")
    lines += ["", "| option | default | meaning |", "|---|---|---|"]
    lines += [
        f"| `{row['option']}` | `{shown(row['default'])}` | {_cell(row['meaning'])} |" for row in found["options"]
    ]
    return "\n".join(lines) + "\n"


def _taps(found: dict[str, Any]) -> str:
    told = [f"of the {side} `{' '.join(found[f'{side}_taps'])}`" for side in ("student", "teacher")]
    text = f" Taps of networks with three stages: {', '.join(told)}." if found["teacher_taps"] else ""
    return text + (f" A stage before training trains {found['stage']}." if found["stage"] else "")


def _told(row: dict[str, Any]) -> str:
    variant = row["method"].partition(", ")[2]
    text = f"`{row['theirs']}`" + (f" (with `{variant}`)" if variant else "")
    if row["correction"]:
        text += f" differs by {_figure(row['uncorrected'])}, and by {_figure(row['relative'])} once corrected:"
        text += f" {row['correction']}."
    else:
        text += f" differs by {_figure(row['relative'])}." if row["relative"] else " gives the same to the last bit."
    return text + (f" {_sentence(row['note'])}" if row["note"] else "")


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if value < 0.01 else f"{value:.2g}"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _name(row: dict[str, Any]) -> str:
    name: str = row["method"].partition(",")[0]
    return name


def _address(paper: str) -> str:
    return re.findall(r"https?://\S+", paper)[-1]


def _linked(paper: str) -> str:
    return re.sub(r"https?://(\S+)", r"[\1](\g<0>)", paper)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _wrapped(text: str, bullet: str = "") -> list[str]:
    indent = " " * len(bullet)
    return textwrap.wrap(
        text, 118, initial_indent=bullet, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    (HERE / "methods.md").write_text(page())
