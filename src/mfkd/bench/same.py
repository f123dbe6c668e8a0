"""Whether what is finished was made by the plan as it reads now."""

from collections.abc import Iterator
from typing import Any

from mfkd.bench.cell import Cell, teacher_files
from mfkd.config import RunConfig, TeacherConfig, TrainConfig, settings
from mfkd.errors import ConfigError
from mfkd.files import read_object
from mfkd.methods import complete
from mfkd.records import RunRecord
from mfkd.teacher.load import is_ready
from mfkd.validation import differences, validated

FILLED = {
    *(f"data.{key}" for key in ("mean", "std", "image_size", "crop", "interpolation")),
    *(f"augment.{key}" for key in ("crop_padding", "flip", "views")),
}
"""What a plan may leave open: it is filled in from the data, or from what a network was trained with."""


def check_same(cell: Cell) -> None:
    """Refuse a finished cell of another plan, before days are spent on cells that it cannot be compared with.

    Raises:
        ConfigError: names the first setting that differs, and both values.
    """
    for what, found, wanted in _teachers(cell) if cell.kind == "teacher" else _student(cell):
        for key, old, new in differences(found, wanted):
            if new is not None or key not in FILLED:
                raise ConfigError(
                    f"{cell.folder} holds {what} with {key}={old}, and the plan says {new}; choose another folder with "
                    "out=, or change the plan back."
                )


def _student(cell: Cell) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    record, wanted = RunRecord.load(cell.record), cell.config
    found = validated(RunConfig, record.config, f"{cell.record}: ")
    pairs = zip(found.named_teachers.values(), wanted.named_teachers.values(), strict=False)
    # Where its teachers were trained here, a student was given their weights.
    given = [own if is_ready(planned) else own.model_copy(update={"weights": None}) for own, planned in pairs]
    if len(given) == len(found.named_teachers):
        found = found.model_copy(update={"teacher": given[0], "teachers": tuple(given[1:])})
    old, new = _settings(found, cell.kind), _settings(wanted, cell.kind)
    if cell.kind != "alone":  # what it was trained with, whatever a preset of that name stands for by now
        old["method"], new["method"] = complete(record.method), complete(wanted.method)
        if found.method == wanted.method:  # parts of a preset that the teacher cannot serve were left out
            new["method"] = {name: options for name, options in new["method"].items() if name in old["method"]}
    yield "a student trained", old, new


def _settings(config: RunConfig, kind: str) -> dict[str, Any]:
    left_out = ("teacher", "teachers", "method", "cache") if kind == "alone" else ("method",)
    return {key: value for key, value in settings(config).items() if key not in left_out}


def _teachers(cell: Cell) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, teacher in cell.config.named_teachers.items():
        path = cell.home / name / "record.json"
        if not is_ready(teacher) and path.exists():
            record = RunRecord.load(path)
            config = validated(RunConfig, record.config, f"{path}: ")
            training = validated(TrainConfig, record.training, f"{path}: ")
            alone = cell.config.model_copy(update={"teacher": teacher})
            yield "a teacher trained", _trained(config, training), _trained(alone, alone.teacher_training())
    wanted, measured = teacher_files(cell.config), read_object(cell.record).get("weights", {})
    for name in wanted.keys() & measured.keys():  # older figures do not tell
        key = f"SHA-256 of {name}.weights"
        yield "figures of a teacher", {key: measured[name]}, {key: wanted[name]}


def _trained(config: RunConfig, training: TrainConfig) -> dict[str, Any]:
    """All that a teacher's own training depends on."""
    value = settings(config)
    teacher = {key: value["teacher"][key] for key in TeacherConfig.model_fields if key not in ("train", "weight")}
    augment = {key: own for key, own in value["augment"].items() if key != "views"}
    trained = training.model_dump(mode="json", exclude={"compile"})
    return {"data": value["data"], "augment": augment, "teacher": {**teacher, "train": trained}}
