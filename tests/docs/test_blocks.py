"""Every block of shell and Python in the documents runs, or says why it does not."""

import time
from pathlib import Path

import pytest

from page_blocks import RUN, blocks, run_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FAST = ("tutorials/digits.md",)
SLOW = ("extend.md", "tutorials/folder.md", "tutorials/cifar100.md", "networks.md")
MADE = {"methods.md", "models.md", "performance.md", "reliability.md", "results.md"}
"""Written by a program from records; a command there is the one that the figures came from."""
LEFT_OUT = {
    "bench.md": 2,  # they train for minutes to hours; tests/bench and tests/cli run small plans
    "tutorials/cifar100.md": 3,
    "tutorials/digits.md": 2,
    "tutorials/folder.md": 1,
}
"""Blocks a page that are marked as not run: one more is a decision."""


def pages():
    return {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("page", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_blocks_run_as_shown(page, tmp_path):
    ran, left_out = run_page((DOCS / page).read_text(encoding="utf-8"), tmp_path)
    assert len(left_out) == LEFT_OUT.get(page, 0)
    assert ran or page == "networks.md"  # whose Python is a file


def test_no_page_is_forgotten_and_what_is_not_run_says_why():
    found = {}
    for page, text in pages().items():
        if page.startswith("records/") or page in MADE:
            continue
        runnable = [block for block in blocks(text) if block.language in RUN]
        assert text.count("```") == 2 * len(blocks(text)), f"{page} has a fence that is not read"
        if page not in (*FAST, *SLOW):
            silent = [block.line for block in runnable if not block.left_out]
            assert not silent, f"{page}: lines {silent} are neither run nor marked; add the page to FAST or SLOW"
        count = sum(bool(block.left_out) for block in runnable)
        if count:
            found[page] = count
    assert found == LEFT_OUT


PAGE = """
```sh
echo 3 > number
```
<!-- not run: no machine has it -->
```sh
false
```

```yaml
# sub/a.yaml
a: 1
```
```python
import yaml
print(yaml.safe_load(open("sub/a.yaml"))["a"] + int(open("number").read()))
```

<!-- output -->
```text
4
```
"""


def test_blocks_share_a_folder_and_reasons_are_given_back(tmp_path):
    ran, left_out = run_page(PAGE, tmp_path)
    assert [(block.language, block.line) for block in ran] == [("sh", 2), ("python", 14)]
    assert left_out == ["no machine has it"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<!-- not run: no machine has it -->\n", "", "line 5: exit code 1 of\nfalse\n"),
        ("echo 3", "cat nothing | wc -l", "line 2: exit code 1 of\ncat nothing"),
        ("\n4\n", "\n5\n", "line 20: the block before it printed\n4\n"),
        ("echo 3 > number", "sleep 9", "line 2: exit code none within 2 s of"),
    ],
)
def test_a_block_that_does_not_do_what_it_shows_fails(tmp_path, old, new, told):
    with pytest.raises(AssertionError) as caught:
        run_page(PAGE.replace(old, new), tmp_path, seconds=2)
    assert str(caught.value).startswith(told)


def test_what_a_block_leaves_running_is_ended(tmp_path):
    run_page("```sh\nsleep 60 &\necho $! > pid\n```\n", tmp_path)
    process, patience = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while alive(process):
        assert time.monotonic() < patience
        time.sleep(0.05)


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
