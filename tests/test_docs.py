"""Documents say what the code and the records say."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_results_page_is_made_from_the_records():
    written = (ROOT / "docs" / "results.md").read_text()
    assert runpy.run_path(str(ROOT / "docs" / "results.py"))["page"]() == written


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    import re

    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_readme_loop_runs_as_shown(tmp_path, monkeypatch):
    import re

    import torch

    from mfkd import build_model
    from mfkd.models.weights import save_weights

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    save_weights("resnet56.safetensors", build_model("resnet56", num_classes=100).state_dict())
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12)
    space = {"loader": [(images[:6], labels[:6]), (images[6:], labels[6:])]}
    exec(code, space)
    assert set(space["out"].terms) == {"ce", "kd", "mfkd"}
    assert torch.isfinite(space["out"].loss)
    untouched = build_model("resnet56", num_classes=100, weights="resnet56.safetensors").state_dict()
    assert all(torch.equal(untouched[name], tensor) for name, tensor in space["teacher"].state_dict().items())
