"""Doing a finished run once more from what its folder tells, and whether the same comes out."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfkd.config import RunConfig, load_config, settings
from mfkd.errors import ConfigError
from mfkd.models.weights import read_weights
from mfkd.records import RunRecord
from mfkd.validation import differences

KINDS = ("alone", "distilled")


def recipe_of(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The recipe that repeats a run, in a folder of its own.

    Args:
        folder: of a finished run.
        overrides: where to write (default: beside it, with "-again"), and what else changes no result.

    Raises:
        ConfigError: no finished run there, its own folder, or an override that changes what comes out.
    """
    path, given = folder / "config.yaml", any(word.startswith("out=") for word in overrides)
    if not path.is_file() or not (folder / "summary.json").is_file():
        raise ConfigError(f"--from {folder}: no finished run is there; give a run folder with its summary.json.")
    was = load_config(path)
    config = load_config(path, [*overrides, *([] if given else [f"out={folder.absolute()}-again"])])
    for key, old, new in [*differences(settings(was), settings(config)), *_added_seeds(was, config)]:
        raise ConfigError(f"--from repeats a run as it was: {key} is {old!r} there and {new!r} here; leave it out.")
    if Path(config.out).expanduser().resolve() == folder.resolve():
        raise ConfigError(f"--from {folder}: the repetition needs a folder of its own; choose another with out=.")
    return config


def compare(folder: Path, again: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Lay a run and its repetition side by side.

    Args:
        folder: of the first run.
        again: of the second one.
        seeds: of both.

    Returns:
        `identical`; `students`: kind, seed, and the digests of both networks' weights; `differences`: what the
        records name that can be the reason where they differ, as [name, first, second].
    """
    students: list[dict[str, Any]] = []
    found: dict[str, list[Any]] = {}
    for seed in seeds:
        for kind in KINDS:
            places = [path / kind / f"seed-{seed}" for path in (folder, again)]
            first, second = (digest(place / "student.safetensors") for place in places)
            students.append({"kind": kind, "seed": seed, "first": first, "second": second})
            old, new = (_conditions(RunRecord.load(place / "record.json")) for place in places)
            found |= {
                name: [name, old.get(name), new.get(name)] for name in old | new if old.get(name) != new.get(name)
            }
    identical = all(student["first"] == student["second"] for student in students)
    return {"identical": identical, "students": students, "differences": list(found.values())}


def digest(path: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights of a file."""
    found = hashlib.sha256()
    for name, tensor in sorted(read_weights(path)[0].items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _added_seeds(was: RunConfig, config: RunConfig) -> list[tuple[str, Any, Any]]:
    return [] if was.seeds == config.seeds else [("seeds", list(was.seeds), list(config.seeds))]


def _conditions(record: RunRecord) -> dict[str, Any]:
    """What a result depends on besides the recipe."""
    environment = {name: value for name, value in record.environment.items() if name not in ("finished", "versions")}
    return {
        **environment,
        **record.environment.get("versions", {}),
        "processes": record.processes,
        "compiled": record.compiled,
        "files it starts from": record.config_hash,
    }
