"""Every key of a recipe with values that it cannot have, each with the whole line that it is refused by."""

from collections.abc import Iterator
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mfkd.config import RunConfig
from mfkd.sections import TrainConfig

TEXT, LIST, WHOLE, NUMBER, SWITCH = "text", "a list", "a whole number", "a number", "true or false"
FINITE, POSITIVE, SHARE = "a finite number", "more than 0", "1 or less"
ONE, ZERO = "1 or more", "0 or more"
NO_SWITCH = "something else than true or false"
MAPPING = "a mapping of keys"

# Key: values as a person writes them, and what is expected instead. `KEY.0` names an entry of a list.
FIELDS: dict[str, dict[str, str]] = {
    "out": {"3": TEXT, "null": TEXT, "[a]": TEXT, "true": NO_SWITCH},
    "data": {"digits": MAPPING, "[digits]": MAPPING},
    "data.name": {"3": TEXT, "null": TEXT},
    "data.root": {"3": TEXT, "null": TEXT},
    "data.label": {"3": TEXT, "[a]": TEXT},
    "data.fraction": {"0": POSITIVE, "1.01": SHARE, ".nan": SHARE, "half": NUMBER, "true": NO_SWITCH},
    "data.val_fraction": {"-0.1": ZERO, "1": "less than 1", ".nan": "less than 1", "[0.1]": NUMBER},
    "data.test_fraction": {"0": POSITIVE, "1": "less than 1", ".nan": "less than 1", "all": NUMBER},
    "data.split_seed": {"-1": ZERO, "0.5": WHOLE, "x": WHOLE},
    "data.evaluate": {"train": "'test' or 'val'", "null": "'test' or 'val'"},
    "data.resize": {"0": ONE, "32.5": WHOLE, "[32, 32]": WHOLE},
    "data.copies": {"0": ONE, "large": WHOLE},
    "data.image_size": {"0": ONE, "-224": ONE, "large": WHOLE},
    "data.crop": {"0": POSITIVE, "1.1": SHARE, "all": NUMBER},
    "data.interpolation": {"cubic": "'nearest', 'bilinear', 'bicubic' or 'lanczos'"},
    "data.mean": {"0.5": LIST, "{r: 0.5}": LIST},
    "data.mean.0": {"[1.1]": SHARE, "[-0.1]": ZERO, "[.nan]": SHARE, "[x]": NUMBER},
    "data.std": {"0.5": LIST},
    "data.std.0": {"[0]": POSITIVE, "[.inf]": FINITE, "[x]": NUMBER},
    "data.class_names": {"3": TEXT, "[cat, dog]": TEXT},
    "data.unlabelled": {"3": TEXT, "true": NO_SWITCH},
    "data.unreadable": {"ignore": "'error' or 'skip'", "true": NO_SWITCH},
    "data.workers": {"-1": ZERO, "1.5": WHOLE, "null": WHOLE},
    "teacher": {"3": MAPPING},
    "teacher.model": {"3": TEXT, "null": TEXT},
    "teacher.options": {"3": MAPPING, "[a]": MAPPING},
    "teacher.weights": {"3": TEXT, "[a.pt]": TEXT},
    "teacher.head": {"reset": "'keep' or 'tune'"},
    "teacher.classes": {"0": ONE, "ten": WHOLE},
    "teacher.mean": {"0.5": LIST},
    "teacher.mean.0": {"[.nan]": FINITE, "[x]": NUMBER},
    "teacher.std": {"0.5": LIST},
    "teacher.std.0": {"[0]": POSITIVE, "[.inf]": FINITE},
    "teacher.image_size": {"0": ONE, "x": WHOLE},
    "teacher.seed": {"-1": ZERO, "1.5": WHOLE},
    "teacher.weight": {"0": POSITIVE, ".inf": FINITE, "x": NUMBER},
    "teacher.train": {"3": MAPPING, "[epochs]": MAPPING},
    "teachers": {"3": LIST, "resnet8": LIST},
    "teachers.0": {"[3]": MAPPING},
    "teachers.0.seed": {"[{seed: -1}]": ZERO},
    "student": {"resnet8": MAPPING},
    "student.model": {"3": TEXT, "null": TEXT},
    "student.options": {"3": MAPPING},
    "student.weights": {"3": TEXT},
    "student.head": {"tune": "'keep' or 'reset'"},
    "method": {},  # see test_contradictions
    "train": {"30": MAPPING},
    "train.epochs": {"0": ONE, "1.5": WHOLE, "ten": WHOLE, "true": NO_SWITCH, ".inf": FINITE, "null": WHOLE},
    "train.batch_size": {"0": ONE, "x": WHOLE},
    "train.optimizer": {"adam": "'sgd' or 'adamw'", "null": "'sgd' or 'adamw'"},
    "train.lr": {"0": POSITIVE, "-0.1": POSITIVE, ".inf": FINITE, ".nan": FINITE, "fast": NUMBER, "true": NO_SWITCH},
    "train.momentum": {"-0.1": ZERO, "1.1": SHARE, ".nan": SHARE},
    "train.nesterov": {"maybe": SWITCH, "2": SWITCH},
    "train.weight_decay": {"-1e-9": ZERO, ".inf": FINITE},
    "train.no_decay": {"some": SWITCH},
    "train.layer_decay": {"0": POSITIVE, "1.1": SHARE, ".nan": SHARE},
    "train.freeze": {"stem": LIST},
    "train.freeze.0": {"[1]": TEXT},
    "train.schedule": {"step": "'multistep', 'cosine', 'onecycle' or 'constant'"},
    "train.milestones": {"3": LIST},
    "train.milestones.0": {"[0]": ONE, "[a]": WHOLE},
    "train.gamma": {"0": POSITIVE, "1.1": SHARE},
    "train.warmup_epochs": {"-1": ZERO, ".inf": FINITE},
    "train.clip": {"0": POSITIVE, ".nan": POSITIVE, "x": NUMBER},
    "train.ema": {"0": POSITIVE, "1": "less than 1"},
    "train.label_smoothing": {"-0.1": ZERO, "1": "less than 1"},
    "train.precision": {"fp8": "'fp32', 'bf16', 'fp16' or 'fp64'", "32": "'fp32', 'bf16', 'fp16' or 'fp64'"},
    "train.accumulate": {"0": ONE, "x": WHOLE},
    "train.channels_last": {"x": SWITCH},
    "train.compile": {"always": "'auto', True or False", "null": "'auto', True or False"},
    "train.sync_batchnorm": {"x": SWITCH},
    "train.evaluate_every": {"0": ONE, "x": WHOLE},
    "augment": {"none": MAPPING},
    "augment.crop_padding": {"-1": ZERO, "x": WHOLE},
    "augment.flip": {"x": SWITCH},
    "augment.scale": {"0.5": LIST},
    "augment.scale.1": {"[0.5, 1.1]": SHARE, "[0.5, x]": NUMBER},
    "augment.ratio": {"1": LIST},
    "augment.ratio.0": {"[x, 1]": NUMBER},
    "augment.auto": {"autoaugment": "'none', 'randaugment' or 'trivialaugment'"},
    "augment.num_ops": {"0": ONE},
    "augment.magnitude": {"-1": ZERO, "31": "30 or less"},
    "augment.jitter": {"-0.1": ZERO, ".inf": FINITE},
    "augment.erasing": {"-0.1": ZERO, "1.1": SHARE},
    "augment.mixup": {"-0.1": ZERO, ".nan": FINITE, "x": NUMBER},
    "augment.cutmix": {"-0.1": ZERO, ".inf": FINITE},
    "augment.views": {"0": ONE, "x": WHOLE},
    "augment.view_seed": {"-1": ZERO},
    "cache": {"2": MAPPING},
    "cache.views": {"0": ONE, "-1": ONE, "two": WHOLE},
    "cache.dtype": {"int8": "'float16', 'bfloat16' or 'float32'"},
    "cache.folder": {"3": TEXT},
    "checkpoint": {"10": MAPPING},
    "checkpoint.every_steps": {"0": ONE, "x": WHOLE},
    "checkpoint.every_minutes": {"0": POSITIVE, ".inf": FINITE, ".nan": FINITE},
    "checkpoint.keep": {"0": ONE, "x": WHOLE},
    "log": {"wandb": MAPPING},
    "log.trackers": {"wandb": LIST},
    "log.trackers.0": {
        "[x]": "'tensorboard', 'wandb', 'mlflow', 'comet_ml', 'aim', 'clearml', 'dvclive', 'swanlab' or 'trackio'"
    },
    "seeds": {"0": LIST, "[]": "1 or more entries"},
    "seeds.0": {"[-1]": ZERO, "[x]": WHOLE},
}
# A key that does not exist, in each part of a recipe, and the nearest one.
UNKNOWN = {
    "sed": "seeds",
    "data.nam": "data.name",
    "teacher.hed": "teacher.head",
    "teacher.train.epoch": "teacher.train.epochs",
    "student.opions": "student.options",
    "train.epoch": "train.epochs",
    "augment.flop": "augment.flip",
    "cache.view": "cache.views",
    "checkpoint.every": "checkpoint.every_steps",
    "log.tracker": "log.trackers",
}
CASES = [(key, value) for key, values in FIELDS.items() for value in values]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a model and of those within it, also within a tuple of them, as `KEY.0`."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        for kind, place in ((field.annotation, ""), *((kind, ".0") for kind in get_args(field.annotation))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, f"{prefix}{name}{place}.")


KNOWN = dict(fields(RunConfig))


def described(key: str) -> str:
    while key not in KNOWN or key.startswith("teachers."):
        key = key.rpartition(".")[0]
    meaning = KNOWN[key].description
    return f" ({meaning})" if meaning else ""


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}={value}" for key, value in CASES])
def test_a_value_that_a_key_cannot_have(key, value, refused):
    written = next(key.removesuffix(end) for end in (".0.seed", ".0", ".1", "") if key.endswith(end))
    expected = FIELDS[key][value]
    told = refused("run", f"{written}={value}")
    got = yaml.safe_load(value) if value != "-1e-9" else -1e-9
    if key != written:
        got = got[int(key.removeprefix(f"{written}.").partition(".")[0])]
        got = got["seed"] if key.endswith(".seed") else got
    assert told == f"{key}: got {got!r}, expected {expected}{described(key)}."


@pytest.mark.parametrize("key", UNKNOWN)
def test_a_key_that_does_not_exist(key, refused):
    assert refused("run", f"{key}=1").startswith(f"unknown key '{key}'; did you mean {UNKNOWN[key]}")


def test_every_key_stands_in_the_table():
    # Those of a further teacher are those of the first one.
    wanted = {key for key in KNOWN if not key.startswith("teachers.0.")}
    assert wanted <= FIELDS.keys()
    assert not [key for key in wanted - {"method"} if not FIELDS[key]]


def test_every_part_of_a_recipe_has_an_unknown_key():
    parts = {key.rpartition(".")[0] for key in KNOWN if not key.startswith("teachers.")}
    assert parts | {"teacher.train"} == {key.rpartition(".")[0] for key in UNKNOWN}


def test_a_field_without_a_row_would_be_found():
    class More(RunConfig):
        novelty: tuple[TrainConfig, ...] = ()

    assert {"novelty", "novelty.0.epochs"} <= dict(fields(More)).keys() - FIELDS.keys()
