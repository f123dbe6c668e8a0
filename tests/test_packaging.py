"""What the build files promise to each other."""

import tomllib
from importlib.resources import files
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_pre_commit_pins_are_those_of_the_dev_extra():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    pins = {pin for hook in hooks for pin in hook["additional_dependencies"]}
    assert {pin.split("==")[0] for pin in pins} == {"ruff", "mypy"}
    assert pins <= set(PROJECT["optional-dependencies"]["dev"])


def test_tools_are_pinned_exactly_and_libraries_from_below():
    tools = [*PROJECT["optional-dependencies"]["dev"], *PROJECT["optional-dependencies"]["test"]]
    assert all("==" in tool for tool in tools if not tool.startswith("mfkd["))
    assert all(">=" in library for library in PROJECT["dependencies"])


def test_package_is_marked_as_typed():
    assert files("mfkd").joinpath("py.typed").is_file()


def test_licence_is_the_whole_apache_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "9. Accepting Warranty or Additional Liability." in text
    assert PROJECT["license"] == "Apache-2.0"


def test_readme_carries_the_two_commands_of_ci():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    run, test = (lines[lines.index(f"<!-- ci: {kind} command -->") + 2].split(" && ") for kind in ("run", "test"))
    assert run == ["python3 -m venv .venv", ".venv/bin/pip install .", ".venv/bin/mfkd run"]
    assert test == ["python3 -m venv .venv", ".venv/bin/pip install '.[test]'", ".venv/bin/python -m pytest"]
