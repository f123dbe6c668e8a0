"""Records from run folders, benches and single files, put beside one another only where they are alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mfkd.bench.recorded import check_record
from mfkd.bench.run import FILE, read_bench
from mfkd.config import RunConfig, TrainConfig
from mfkd.errors import ConfigError, MfkdError, brief, cut
from mfkd.files import read_object, sha256
from mfkd.methods import PRESETS, complete, known_methods
from mfkd.records import RunRecord
from mfkd.validation import differences

ALONE = "none"
SPACE = "sweep.json"  # in the folder of a sweep


@dataclass(frozen=True)
class Entry:
    """One trained student.

    Args:
        name: of its method: as the plan calls it, else made from the method itself.
        record: what was run and what came out.
        method: all methods with all options, as the code of today fills them in; empty for plain training.
        path: of the record.
    """

    name: str
    record: RunRecord
    method: dict[str, Any]
    path: Path

    @property
    def told(self) -> str:
        """For a message."""
        return f"{self.path} ({cut(self.name)}, seed {self.record.seed})"


@dataclass
class Sheet:
    """What is compared with one another.

    Args:
        title: pair and budget, where there are several.
        entries: the students.
        teacher: Top-1 of the teacher in per cent; None where it is not known.
        order: methods as their plan lists them.
        family: methods whose comparisons are corrected together; empty: all.
        kd: the method that stands for KD.
        missing: method and seed of what is not done, by what it failed of; "" for what did not fail.
        unlike: what differs and was allowed to, in words.
    """

    title: str
    entries: list[Entry] = field(default_factory=list)
    teacher: float | None = None
    order: list[str] = field(default_factory=list)
    family: list[str] = field(default_factory=list)
    kd: str = "kd"
    missing: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    unlike: list[str] = field(default_factory=list)


def collect(paths: Sequence[Path], allow: Iterable[str] = ()) -> list[Sheet]:
    """Read all records below some paths; a bench of several pairs or budgets gives a sheet for each.

    Args:
        paths: run folders, folders of benches or of records (`*.record.json`), or such files.
        allow: dotted settings that may differ, such as `train.epochs` or `data`.

    Raises:
        MfkdError: nothing there, or a file that is no record.
        ConfigError: records that are unlike; names the setting and both values.
    """
    sheets: dict[str, Sheet] = {}
    for path in (path.expanduser() for path in paths):
        folder = path.parent if path.name == FILE else path
        if not path.exists():
            raise MfkdError(f"{path} does not exist; give run folders, benches or record files.")
        if (folder / FILE).exists():
            _bench(folder, sheets)
        else:
            _loose(path, sheets.setdefault("", Sheet("")))
    found = [sheet for sheet in sheets.values() if sheet.entries]
    if not found:
        raise MfkdError(f"{', '.join(map(str, paths))}: no finished student there; run something first.")
    for sheet in found:
        sheet.entries = _distinct(sheet.entries)
        sheet.unlike = check_alike(sheet.entries, tuple(allow))
        sheet.entries = _unique(sheet.entries)
    return found


def check_alike(entries: Sequence[Entry], allow: Sequence[str] = ()) -> list[str]:
    """Refuse students whose difference is more than the method and the seed.

    Args:
        entries: of one sheet.
        allow: dotted settings that may differ, with all below them.

    Returns:
        What differs all the same, in words, each setting once.

    Raises:
        ConfigError: names the first setting that differs, and both values.
    """
    first: dict[bool, Entry] = {}
    allowed: dict[str, str] = {}
    # A student alone has no teacher, so the distilled ones are compared with the first of their kind too.
    for entry in sorted(entries, key=lambda entry: entry.name != ALONE):
        own = protocol(entry)
        for other in first.values():
            for key, old, new in differences(_shared(protocol(other), own), _shared(own, protocol(other))):
                told = f"{cut(key)} is {brief(old)} in {other.told} and {brief(new)} in {entry.told}"
                if not any(key == name or key.startswith(f"{name}.") for name in allow):
                    raise ConfigError(
                        f"unlike things: {told}; leave one out, or compare them all the same with --allow {cut(key)}."
                    )
                allowed.setdefault(key, told)
        first.setdefault(entry.name == ALONE, entry)
    return list(allowed.values())


def protocol(entry: Entry) -> dict[str, Any]:
    """Everything but method and seed that can make a difference, as nested plain values."""
    record = entry.record
    config, training = _of_today(RunConfig, record.config), _of_today(TrainConfig, record.training)
    data = {key: value for key, value in config["data"].items() if key not in ("root", "workers")}
    found = {
        "data": {**data, "evaluate": data.get("evaluate", "test")},
        "student": config["student"],
        "train": {key: value for key, value in training.items() if key != "compile"},  # changes roundings alone
        "augment": config["augment"],
    }
    if record.kind == "distilled":
        teachers = [config["teacher"], *config.get("teachers", ())]
        digest = record.teacher_sha256 or _teacher_digest(entry)
        left_out = ("weights", "train", "seed") if digest else ("weights",)
        kept = [{key: value for key, value in one.items() if key not in left_out} for one in teachers]
        found["teacher"] = {**kept[0], "sha256": digest, **({"others": kept[1:]} if kept[1:] else {})}
    return found


def label(method: dict[str, Any]) -> str:
    """A name for a method with all its options: that of a preset, or its parts with what is not default."""
    if not method:
        return ALONE
    for name in (*PRESETS, *known_methods()):
        if complete(name) == method:
            return name
    defaults = complete({name: {} for name in method})
    changed = [f"{key}={value}" for key, _, value in differences(defaults, method)]
    parts = "+".join(name for name in method if name != "ce") or "ce"
    parts = f"{{{parts}}}" if parts in PRESETS else parts  # as it is named in a mapping, not the preset
    return f"{parts} ({', '.join(changed)})" if changed else parts


def _bench(folder: Path, sheets: dict[str, Sheet]) -> None:
    value = read_bench(folder)
    several = len({(cell["pair"], cell["budget"]) for cell in value["cells"] if cell["kind"] != "teacher"}) > 1
    teachers: dict[tuple[str, str], float | None] = {}
    for cell in value["cells"]:
        if cell["kind"] == "teacher":
            teachers[cell["pair"], cell["split"]] = cell.get("top1")
            continue
        title = ", ".join(part for part in (cell["pair"], cell["budget"]) if part) if several else ""
        sheet = sheets.setdefault(title, Sheet(title))
        if sheet.teacher is None:  # one that was measured on other images says nothing here
            sheet.teacher = teachers.get((cell["pair"], cell["split"]))
        sheet.order += [name for name in value["methods"] if name not in sheet.order]
        sheet.family += [name for name in value["family"] if name not in sheet.family]
        sheet.kd = value["kd"]
        path = folder / cell["folder"] / "record.json"
        if path.exists():
            record = RunRecord.load(path)
            check_record(record, path)
            sheet.entries.append(Entry(cell["method"], record, complete(record.method), path))
        else:
            sheet.missing.setdefault(cell["error"], []).append((cell["method"], cell["seed"]))


def _loose(path: Path, sheet: Sheet) -> None:
    files = [path] if path.is_file() else sorted({*path.rglob("record.json"), *path.rglob("*.record.json")})
    sweeps = set() if path.is_file() else {file.parent for file in path.rglob(SPACE)} - {path}
    trained, several = None, False
    for file in files:
        if not sweeps.isdisjoint(file.parents):
            continue  # its trials are of the validation images
        record = RunRecord.load(file)
        if record.kind == "teacher":
            trained = record.metrics.get("top1")
            continue
        check_record(record, file)
        several |= bool(record.config.get("teachers"))
        method = complete(record.method)
        sheet.entries.append(Entry(label(method), record, method, file))
    if trained is not None and not several:
        sheet.teacher = trained
    elif sheet.teacher is None and path.is_dir():
        for file in (path / "teacher" / "metrics.json", path / "teachers.json", path / "summary.json"):
            if file.exists():
                sheet.teacher = _teacher_top1(read_object(file))


def _teacher_top1(value: dict[str, Any]) -> float | None:
    """From a `summary.json` or the metrics of a loaded teacher; None where neither tells it."""
    for key in ("teacher", "top1", "mean"):
        value = value.get(key, value) if isinstance(value, dict) else value
    found: Any = value
    return float(found) if isinstance(found, int | float) else None


def _of_today(model: type[BaseModel], found: dict[str, Any]) -> dict[str, Any]:
    """With the keys that came after it was written; as it is where it does not read as such any more."""
    try:
        return model.model_validate(found).model_dump(mode="json")
    except ValidationError:
        return found


def _unique(entries: Iterable[Entry]) -> list[Entry]:
    """The same training given twice counts once; two that differ are refused."""
    found: dict[tuple[str, str, int], Entry] = {}
    for entry in entries:
        key = (entry.name, str(entry.method), entry.record.seed)
        other = found.setdefault(key, entry)
        mine, theirs = entry.record.metrics["top1"], other.record.metrics["top1"]
        if mine != theirs:
            raise ConfigError(
                f"{cut(entry.name)}, seed {entry.record.seed}, was trained twice: {theirs:.2f}% in {other.path} and "
                f"{mine:.2f}% in {entry.path}; give only one of them."
            )
    return list(found.values())


def _distinct(entries: list[Entry]) -> list[Entry]:
    """One name that stands for several methods, as from two plans, is replaced by what tells them apart."""
    methods: dict[str, set[str]] = {}
    for entry in entries:
        methods.setdefault(entry.name, set()).add(str(entry.method))
    return [
        entry
        if len(methods[entry.name]) == 1
        else Entry(f"{entry.name}: {label(entry.method)}", entry.record, entry.method, entry.path)
        for entry in entries
    ]


def _shared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The sections that both have."""
    return {name: value for name, value in one.items() if name in other}


def _teacher_digest(entry: Entry) -> str:
    """Of the teacher that a run has trained in its own folder; "" where it is not there any more."""
    run = next((folder for folder in entry.path.absolute().parents if (folder / "config.yaml").exists()), None)
    files = [] if run is None else sorted(run.glob("teacher*/teacher.safetensors"))
    return "+".join(map(sha256, files))
