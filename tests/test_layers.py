"""Holds the code to the rules that one sees from its imports and syntax alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mfkd"

# A module may import what stands on an earlier line, and its own folder.
LAYERS = (
    {"errors", "types", "seeding"},
    {"plain", "hardware", "places", "items"},
    {"files", "validation", "overrides", "shipped", "pictures"},
    {"sections"},
    {"config", "records", "functional"},
    {"summary"},
    {"nn", "models", "taps", "data"},
    {"methods", "teacher"},
    {"distill"},
    {"train"},
    {"export"},
    {"serve"},
    {"plan"},
    {"teachers"},
    {"pipeline"},
    {"estimate", "handed", "profile", "repeat"},
    {"bench"},
    {"report"},
    {"cli"},
)
SAME_LINE = {"taps": {"models"}, "teacher": {"methods"}}  # beyond that, neighbours do not know each other
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Libraries that live behind one door: prefix of the import -> where it may stand.
DOORS = {
    "accelerate": "train/",
    "timm": "models/adapters.py",
    "torchvision.models": "models/adapters.py",
    "matplotlib": "report/figures/",
    "onnx": "export/onnx.py",
    "onnxruntime": "export/onnx.py",
    "onnxscript": "export/onnx.py",
    "ray": "bench/ray.py",
    "optuna": "bench/sweep.py",
    "jinja2": "report/page.py",
    "fastapi": "serve/",
    "starlette": "serve/",
    "uvicorn": "serve/",
    "huggingface_hub": "export/hub.py",
    "pickle": "nowhere",
}
HEAVY = (
    "torch", "torchvision", "timm", "accelerate", "torchmetrics", "sklearn", "scipy", "pyarrow", "matplotlib", "optuna",
)  # fmt: skip


def faults(path: str, source: str) -> list[str]:
    """What is wrong with the file at `path`, relative to the package."""
    tree = ast.parse(source)
    found = [] if len(source.splitlines()) <= 300 else [f"{path}: more than 300 lines; split it"]
    for module in imported(tree):
        found += [
            f"{path}: {module} belongs in {door}"
            for library, door in DOORS.items()
            if module != "pickle.UnpicklingError"  # what torch.load raises
            and f"{module}.".startswith(f"{library}.")
            and not path.startswith(door)
        ]
        if path not in ("__init__.py", "__main__.py"):
            found += layer_fault(path, module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(f"{path}:{node.lineno}: relative import")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{path}:{node.lineno}: bare except")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "yaml.load":
                found.append(f"{path}:{node.lineno}: yaml.load; use yaml.safe_load")
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if called == "torch.load" and not safe:
                found.append(f"{path}:{node.lineno}: torch.load without weights_only=True")
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, `from a import b` as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_fault(path: str, module: str) -> list[str]:
    package, _, rest = module.partition(".")
    if package != "mfkd" or rest in ("", "__version__"):
        return []
    importer, target = path.split("/", maxsplit=1)[0].removesuffix(".py"), rest.split(".")[0]
    unknown = {importer, target} - LEVEL.keys()
    if unknown:
        return [f"{path}: {', '.join(sorted(unknown))} has no place in LAYERS"]
    if target == importer or LEVEL[target] < LEVEL[importer] or target in SAME_LINE.get(importer, ()):
        return []
    return [f"{path}: {importer} may not import {target}"]


@pytest.mark.parametrize("path", sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")))
def test_source_file_keeps_the_rules(path):
    assert faults(path, (SOURCE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("models/x.py", "from mfkd.train.loop import fit", ["models/x.py: models may not import train"]),
        ("errors.py", "def f():\n    import mfkd.config", ["errors.py: errors may not import config"]),
        ("data/x.py", "from mfkd import models", ["data/x.py: data may not import models"]),
        ("models/x.py", "import mfkd.taps", ["models/x.py: models may not import taps"]),
        ("train/x.py", "import mfkd.novelty", ["train/x.py: novelty has no place in LAYERS"]),
        ("data/x.py", "import accelerate.utils", ["data/x.py: accelerate.utils belongs in train/"]),
        (
            "taps/x.py",
            "from torchvision import models",
            ["taps/x.py: torchvision.models belongs in models/adapters.py"],
        ),
        ("report/x.py", "import pickle", ["report/x.py: pickle belongs in nowhere"]),
        ("data/x.py", "from . import sets", ["data/x.py:1: relative import"]),
        ("data/x.py", "try:\n    f()\nexcept:\n    pass", ["data/x.py:3: bare except"]),
        ("data/x.py", "yaml.load(f)", ["data/x.py:1: yaml.load; use yaml.safe_load"]),
        ("data/x.py", "torch.load(f)", ["data/x.py:1: torch.load without weights_only=True"]),
        ("data/x.py", "torch.load(f, weights_only=False)", ["data/x.py:1: torch.load without weights_only=True"]),
        ("data/x.py", "\n" * 301, ["data/x.py: more than 300 lines; split it"]),
    ],
)
def test_fault_is_found(path, source, expected):
    assert faults(path, source) == expected


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("taps/x.py", "from mfkd.models import build_model"),
        ("train/x.py", "from accelerate import Accelerator\nfrom mfkd.distill import Distiller"),
        ("data/x.py", "from torchvision import datasets\nfrom mfkd.data.sets import Split"),
        ("models/adapters.py", "import timm, torchvision.models"),
        ("models/x.py", "from pickle import UnpicklingError"),
        ("train/x.py", "torch.load(f, weights_only=True)\ntry:\n    f()\nexcept OSError:\n    pass"),
        ("__main__.py", "from mfkd.cli import main"),
    ],
)
def test_allowed_code_passes(path, source):
    assert faults(path, source) == []


@pytest.mark.parametrize("module", ["mfkd", "mfkd.cli", "mfkd.config"])
def test_import_is_light(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
