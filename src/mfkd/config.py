"""A recipe: frozen models, a YAML file and `key=value` overrides.

Method options stay raw here; `methods.resolve` checks them against the method's own config.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from mfkd.overrides import apply_override, read_yaml
from mfkd.places import is_file
from mfkd.sections import (
    AugmentConfig,
    CacheConfig,
    CheckpointConfig,
    DataConfig,
    LogConfig,
    Positive,
    TrainConfig,
    choose_precision,
    choose_views,
)
from mfkd.shipped import recipe_names, recipe_path
from mfkd.validation import Frozen, config_error, describe, validated

__all__ = [
    "AugmentConfig",
    "CacheConfig",
    "CheckpointConfig",
    "DataConfig",
    "LogConfig",
    "ModelConfig",
    "RunConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "config_error",
    "config_hash",
    "describe_keys",
    "fingerprint",
    "load_config",
    "read_yaml",
    "recipe_names",
    "recipe_path",
    "settings",
    "to_yaml",
]


_NAMES = (
    "a name of `mfkd models`, timm/NAME, torchvision/NAME, hf-hub:OWNER/NAME, local-dir:FOLDER, "
    "package.module:factory or file.py:factory"
)


class ModelConfig(Frozen):
    """A network by name, with its own options and weights."""

    model: str = Field(
        default="resnet8",
        description=_NAMES,
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword options of the network's constructor")
    weights: str | None = Field(default=None, description="file to start from")

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        told = {
            "num_classes": "the data tell it, and teacher.classes for a teacher's own head",
            "in_channels": "the data tell it",
            "weights": "it has a key of its own beside options",
            "name": "it is the key model",
        }
        for name in told.keys() & options.keys():
            raise ValueError(f"{name} is no option, {told[name]}; leave it out")
        return options


class StudentConfig(ModelConfig):
    """The student, from random or given weights."""

    head: Literal["keep", "reset"] = Field(
        default="keep", description="reset takes all of `weights` but the classifier, for other classes"
    )

    @model_validator(mode="after")
    def _check_reset(self) -> "StudentConfig":
        if self.head == "reset" and self.weights is None:
            raise ValueError("head=reset is for a student that starts from a file; name it with student.weights")
        return self


class TeacherConfig(ModelConfig):
    """The teacher: trained here when `weights` is null, else loaded."""

    model: str = Field(
        default="resnet20",
        description=_NAMES,
    )
    head: Literal["keep", "tune"] = Field(
        default="keep", description="tune fits a new classifier on the frozen teacher first"
    )
    classes: Positive | None = Field(
        default=None, description="classes of the head in `weights`; null: read from the file, else the data's"
    )
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = Field(
        default=None, description="statistics the teacher was trained with; null: the data's"
    )
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None, description="deviations that belong to `mean`; null: the data's"
    )
    image_size: Positive | None = Field(default=None, description="size the teacher expects; null: the data's")
    seed: int = Field(default=0, ge=0, description="seed of the teacher's training, one for all students")
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="share of its probabilities among several teachers"
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="differences from `train` when the teacher is trained here"
    )

    @field_validator("train")
    @classmethod
    def _choose_precision(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {key: choose_precision(own) if key == "precision" else own for key, own in value.items()}

    @model_validator(mode="after")
    def _check_ready(self) -> "TeacherConfig":
        if self.weights is None and not self.options.get("pretrained"):
            given = [name for name in ("classes", "mean", "std", "image_size") if getattr(self, name) is not None]
            given += ["head"] if self.head == "tune" else []
            if given:
                are = "is" if len(given) == 1 else "are"
                raise ValueError(
                    f"{' and '.join(given)} {are} for a teacher that comes with weights; "
                    "name them with teacher.weights or teacher.options.pretrained=true"
                )
        return self


class RunConfig(Frozen):
    """A whole run."""

    out: str = Field(default="runs/digits", description="run folder")
    data: DataConfig = Field(default_factory=DataConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    teachers: tuple[TeacherConfig, ...] = Field(
        default=(), description="further teachers; `teacher: [A, B, ...]` puts all but the first here"
    )
    student: StudentConfig = Field(default_factory=StudentConfig)
    method: str | dict[str, dict[str, Any]] = Field(
        default="mfkd", description="a preset, or methods with their options"
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), min_length=1, description="one student alone and one distilled for each"
    )

    @model_validator(mode="before")
    @classmethod
    def _split_teachers(cls, raw: Any) -> Any:
        """`teacher: [A, B]` stands for teacher A and teachers [B]."""
        if isinstance(raw, dict) and isinstance(raw.get("teacher"), list | tuple):
            first, *more = raw["teacher"] or [{}]
            if raw.get("teachers"):
                raise ValueError("teacher is a list and teachers is given too; name all teachers in one of them")
            return {**raw, "teacher": first, "teachers": more}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _choose_views(cls, raw: Any) -> Any:
        return choose_views(raw) if isinstance(raw, dict) else raw

    @field_validator("method", mode="before")
    @classmethod
    def _check_method(cls, value: Any) -> Any:
        """A method without options may stand alone, as in `kd:`."""
        if isinstance(value, dict):
            value = {name: {} if options is None else options for name, options in value.items()}
            if value and all(isinstance(v, dict) and isinstance(k, str) for k, v in value.items()):
                return value
        elif isinstance(value, str):
            return value
        raise ValueError(f"got {value!r}, expected a preset or a mapping such as {{kd: {{weight: 1.0}}}}")

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        self._check_cache()
        return self

    def _check_cache(self) -> None:
        views = self.cache.views
        if views is None:
            return
        mixed = next((name for name in ("mixup", "cutmix") if getattr(self.augment, name)), None)
        if mixed:
            raise ValueError(
                f"augment.{mixed} mixes images anew each time, and cache.views={views} keeps what the teacher said of "
                f"unmixed ones; set cache.views=null or augment.{mixed}=0"
            )
        if self.augment.views not in (None, views):
            raise ValueError(
                f"augment.views={self.augment.views} and cache.views={views} must be the same; leave augment.views out"
            )

    @property
    def named_teachers(self) -> dict[str, TeacherConfig]:
        """Every teacher by the name of its folder in a run: `teacher`, `teacher-2` and so on."""
        more = {f"teacher-{number}": teacher for number, teacher in enumerate(self.teachers, start=2)}
        return {"teacher": self.teacher, **more}

    def teacher_training(self) -> TrainConfig:
        """How the teacher is trained: `train` with the differences of `teacher.train`."""
        own = {"freeze": (), "layer_decay": 1.0}  # for a student that starts from weights; no teacher trained here does
        return validated(TrainConfig, {**self.train.model_dump(), **own, **self.teacher.train}, "teacher.train.")


def load_config(
    recipe: str | Path | None, overrides: Sequence[str] = (), base: dict[str, Any] | None = None
) -> RunConfig:
    """Read a recipe, lay `key=value` overrides over it and check the whole.

    Args:
        recipe: YAML file or the name of a shipped recipe, or None for `base` alone.
        overrides: such as `train.epochs=30`; the value is read as YAML.
        base: what a missing recipe starts from.

    Raises:
        ConfigError: missing file, bad YAML, unknown key or bad value, named by its dotted path.
    """
    raw = dict(base or {})
    if recipe is not None:
        raw = read_yaml(_find(Path(recipe)))
    raw.setdefault("method", RunConfig.model_fields["method"].default)  # so that method.kd.weight=2 cannot replace it
    for override in overrides:
        apply_override(raw, override)
    config = validated(RunConfig, raw)
    config.teacher_training()
    return config


def describe_keys() -> list[tuple[str, str, str]]:
    """Every key of a recipe: dotted name, default, meaning."""
    return describe(RunConfig)


def _find(path: Path) -> Path:
    """What the user has wins; a bare name or recipes/NAME may stand for a shipped recipe."""
    return recipe_path(str(path)) if not is_file(path) and path.parent in (Path(), Path("recipes")) else path


def to_yaml(config: RunConfig) -> str:
    """The complete recipe as YAML, which reads back to the same config."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def config_hash(config: RunConfig) -> str:
    """Twelve hex digits over everything that can change a result; see `settings`."""
    return fingerprint(settings(config))


def settings(config: RunConfig) -> dict[str, Any]:
    """Every key that can change a result, as plain values."""
    return config.model_dump(
        mode="json",
        exclude={
            "out": True,
            "checkpoint": True,
            "log": True,
            "seeds": True,
            "data": {"workers", "root"},
            "cache": {"folder"},
            "train": {"compile"},
        },
    )


def fingerprint(values: dict[str, Any]) -> str:
    """Twelve hex digits over plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
