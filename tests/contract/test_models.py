"""Every family of timm and torchvision: taps, final features, one step of MFKD either way.

What is checked stands in `docs/zoo_checks.py`, on which networks in `docs/zoo_networks.py`; the last
result of the whole is `docs/models.md`. Expected paths change by `python docs/models.py --pin` alone.
"""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from mfkd.errors import MfkdError

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from zoo_checks import CLASSES, LEVELS, build, disturbed, examine, final_relation  # noqa: E402
from zoo_networks import EXCEPTIONS, FAST, NETWORKS, UNUSED  # noqa: E402

with (Path(__file__).parent / "taps.csv").open(newline="") as file:
    PINNED = {row["network"]: [row[level] for level in LEVELS] for row in csv.DictReader(file)}

everywhere = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)


@everywhere
def test_network(name: str) -> None:
    row = examine(name)
    assert row.paths == PINNED[name], f"{name}: the taps were {PINNED[name]}, now {row.paths}"
    patterns = UNUSED.get(name, {})
    unexplained = [path for path in row.unused if not any(re.fullmatch(pattern, path) for pattern in patterns)]
    assert unexplained == [], f"{name}: no gradient for {unexplained}"
    for pattern in patterns:
        assert any(re.fullmatch(pattern, path) for path in row.unused), f"{name}: {pattern} does get a gradient"


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_still_fail_as_stated(name: str) -> None:
    with pytest.raises((AssertionError, MfkdError), match=re.escape(EXCEPTIONS[name].fails)):
        examine(name)


def test_the_lists_are_complete() -> None:
    assert PINNED.keys() == NETWORKS.keys()
    assert set(FAST) <= NETWORKS.keys()
    assert UNUSED.keys() <= NETWORKS.keys()
    assert not EXCEPTIONS.keys() & NETWORKS.keys()
    assert sum(name.startswith("timm/") for name in NETWORKS) >= 60
    for name, paths in PINNED.items():
        assert len(set(paths)) == 3, name


def test_the_page_is_made_from_the_record_and_shows_the_pinned_paths() -> None:
    record = json.loads((ROOT / "docs" / "models.json").read_text())
    assert {name: row["paths"] for name, row in record.items()} == PINNED
    assert runpy.run_path(str(ROOT / "docs" / "models.py"))["page"](record) == (ROOT / "docs" / "models.md").read_text()


def test_the_checks_can_fail() -> None:
    import torch

    from mfkd.taps import find_taps

    model, shape = build("timm/vit_tiny_patch16_224")
    model.eval()
    taps = find_taps(model, shape)
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match=r"middle at blocks\.7 is not the final features"):
        final_relation("timm/vit_tiny_patch16_224", model, image, taps["middle"])
    with torch.no_grad():
        logits = model(image)
        assert logits.shape == (2, CLASSES)
        # After the last block the head reads the class token alone.
        assert torch.equal(disturbed(model, image, taps["bottom"], whole=False), logits)
        assert not torch.equal(disturbed(model, image, taps["middle"], whole=False), logits)
