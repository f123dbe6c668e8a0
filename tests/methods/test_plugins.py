"""Methods that other packages bring, with the one of docs/extend.md, taken from the page itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mfkd import Distiller, build_model
from mfkd.errors import ConfigError
from mfkd.methods import known_methods
from page_blocks import blocks

PAGE = (Path(__file__).parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")


def block(language):
    (code,) = (one.code for one in blocks(PAGE) if one.language == language and "mimic" in one.code)
    return code


def install(folder, code, name="mimic", value="mimic:Mimic"):
    """What pip leaves of a package `mimic` with one entry point."""
    (folder / "mimic.py").write_text(code, encoding="utf-8")
    info = folder / "mimic-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mimic\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[mfkd.methods]\n{name} = {value}\n", encoding="utf-8")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    def make(*args, **options):
        install(tmp_path, *args, **options)
        monkeypatch.syspath_prepend(tmp_path)
        known_methods.cache_clear()

    yield make
    sys.modules.pop("mimic", None)
    monkeypatch.undo()
    known_methods.cache_clear()


def test_the_pages_method_works_as_shown(plugin):
    plugin(block("python"))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    networks = build_model("resnet14", num_classes=4), build_model("resnet8", num_classes=4)
    distiller = Distiller(*networks, method={"mimic": {"weight": 2.0, "warmup": 0.1}, "kd": {}})
    distiller.set_progress(0.05)
    out = distiller(images, labels)
    out.loss.backward()
    assert list(out.terms) == ["ce", "mimic", "kd"]
    assert out.loss.item() == pytest.approx((out.terms["ce"] + out.terms["mimic"] + out.terms["kd"]).item())
    assert all(p.grad is not None for p in distiller.trainable_parameters())


def test_the_pages_entry_point_and_recipe_are_those_that_work(tmp_path):
    toml, yaml = block("toml"), block("yaml")
    assert toml == '[project.entry-points."mfkd.methods"]\nmimic = "mimic:Mimic"\n'
    install(tmp_path, block("python"))
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    shown = subprocess.run(
        [sys.executable, "-m", "mfkd", "methods", "mimic"],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "map that is compared" in shown
    assert "warmup" in shown
    assert yaml.startswith("method: {mimic: {weight: 2.0, warmup: 0.1}, kd: {}}")


@pytest.mark.parametrize(
    ("code", "options", "told"),
    [
        ("", {"name": "kd"}, "the package mimic adds a method 'kd', and mfkd knows one already; rename or remove it."),
        ("", {"name": "ce"}, "the package mimic adds a method 'ce', and mfkd knows one already; rename or remove it."),
        (
            "import nowhere_at_all",
            {},
            "the package mimic adds a method 'mimic' that cannot be imported (No module named 'nowhere_at_all'); "
            "mend or remove the package.",
        ),
        (
            "Mimic = 3",
            {},
            "the package mimic adds a method 'mimic', but mimic:Mimic is no mfkd Method; remove it.",
        ),
    ],
)
def test_a_faulty_package_is_named(plugin, code, options, told):
    plugin(code, **options)
    with pytest.raises(ConfigError) as caught:
        known_methods()
    assert str(caught.value) == told
