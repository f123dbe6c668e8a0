"""A recipe: frozen models, a YAML file and `key=value` overrides.

Method options stay raw here; `methods.resolve` checks them against the method's own config.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, field_validator, model_validator

from mfkd.overrides import apply_override, read_yaml
from mfkd.shipped import recipe_names, recipe_path
from mfkd.validation import Frozen, config_error, describe, validated

__all__ = [
    "AugmentConfig",
    "CacheConfig",
    "DataConfig",
    "LogConfig",
    "ModelConfig",
    "RunConfig",
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

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tracker = Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"]


class DataConfig(Frozen):
    """Which images, and which share of them."""

    name: str = Field(
        default="digits", description="digits, cifar10, cifar100, fashion_mnist, folder:PATH, parquet:PATH or hf:NAME"
    )
    root: str = Field(default="~/.cache/mfkd/data", description="where torchvision keeps its downloads")
    label: str | None = Field(
        default=None, description="label column of parquet and hf sets; null: fine_label, label or the only one"
    )
    fraction: float = Field(default=1.0, gt=0, le=1, description="share of the training images, drawn by split_seed")
    val_fraction: float = Field(
        default=0.0, ge=0, lt=1, description="share of the training images held out for choices"
    )
    split_seed: int = Field(default=0, ge=0, description="decides which images are used and held out")
    resize: Positive | None = Field(
        default=None, description="scale small images to this size, shorter side of large ones"
    )
    image_size: Positive = Field(default=224, description="size that large images (folders) are cropped to")
    unlabelled: str | None = Field(
        default=None, description="folder of images without classes, added to the distillation"
    )
    workers: Annotated[int, Field(ge=0)] = Field(default=2, description="processes that read large images")


class AugmentConfig(Frozen):
    """Augmentation; null means the data set's own default."""

    crop_padding: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="zero padding before a random crop, px"
    )
    flip: bool | None = Field(default=None, description="random horizontal flip")
    mixup: NonNegative = Field(default=0.0, description="alpha of mixup, 0 is off")
    cutmix: NonNegative = Field(default=0.0, description="alpha of cutmix, 0 is off")
    view_seed: int = Field(
        default=0, ge=0, description="augmentation is a pure function of this, the view and the image"
    )


class TrainConfig(Frozen):
    """One training of one network; the published CIFAR-100 protocol by default."""

    epochs: Positive = Field(default=240, description="passes over the training images")
    batch_size: Positive = Field(default=64, description="images an update, over all processes and accumulated parts")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="what updates the weights")
    lr: float = Field(default=0.05, gt=0, allow_inf_nan=False, description="peak learning rate")
    momentum: Share = Field(default=0.9, description="of sgd")
    nesterov: bool = Field(default=False, description="look ahead along the momentum")
    weight_decay: NonNegative = Field(default=5e-4, description="on all weights, BatchNorm's and biases too")
    schedule: Literal["multistep", "cosine", "onecycle", "constant"] = Field(
        default="multistep", description="how the learning rate moves"
    )
    milestones: tuple[Positive, ...] = Field(
        default=(150, 180, 210), description="epochs after which multistep multiplies by gamma"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="factor at each milestone")
    warmup_epochs: NonNegative = Field(default=0.0, description="linear warm-up; 0 with onecycle means 20% of the run")
    clip: float | None = Field(default=None, gt=0, description="largest gradient norm")
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of an averaged copy, which is then evaluated and kept"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of the label spread over all classes")
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = Field(
        default="fp32", description="the half precisions are mixed with fp32, fp16 needs CUDA"
    )
    accumulate: Positive = Field(default=1, description="parts into which a batch is split")
    channels_last: bool = Field(default=True, description="memory layout of images and weights; usually faster")
    sync_batchnorm: bool = Field(default=False, description="share BatchNorm statistics between processes (CUDA)")
    evaluate_every: Positive = Field(default=1, description="epochs between evaluations; the last epoch always counts")

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.milestones != tuple(sorted(set(self.milestones))):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into accumulate={self.accumulate} equal parts"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer sgd and momentum above 0")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is longer than epochs {self.epochs}")
        return self


class ModelConfig(Frozen):
    """A network by name, with its own options and weights."""

    model: str = Field(
        default="resnet8",
        description="a name of `mfkd models`, timm/NAME, torchvision/NAME, package.module:factory or file.py:factory",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keyword options of the network's constructor")
    weights: str | None = Field(default=None, description="file to start from")


class TeacherConfig(ModelConfig):
    """The teacher: trained here when `weights` is null, else loaded."""

    model: str = Field(
        default="resnet20",
        description="a name of `mfkd models`, timm/NAME, torchvision/NAME, package.module:factory or file.py:factory",
    )
    head: Literal["keep", "tune"] = Field(
        default="keep", description="tune fits a new classifier on the frozen teacher first"
    )
    classes: Positive | None = Field(
        default=None, description="classes of the head in `weights`; null: read from the file, else the data's"
    )
    mean: tuple[float, ...] | None = Field(
        default=None, description="statistics the teacher was trained with; null: the data's"
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None, description="deviations that belong to `mean`; null: the data's"
    )
    image_size: Positive | None = Field(default=None, description="size the teacher expects; null: the data's")
    seed: int = Field(default=0, ge=0, description="seed of the teacher's training, one for all students")
    train: dict[str, Any] = Field(
        default_factory=dict, description="differences from `train` when the teacher is trained here"
    )

    @model_validator(mode="after")
    def _check_ready(self) -> "TeacherConfig":
        if self.weights is None and not self.options.get("pretrained"):
            given = [name for name in ("classes", "mean", "std", "image_size") if getattr(self, name) is not None]
            given += ["head"] if self.head == "tune" else []
            if given:
                raise ValueError(
                    f"{' and '.join(given)} is for a teacher that comes with weights; "
                    "name them with teacher.weights or teacher.options.pretrained=true"
                )
        return self


class CacheConfig(Frozen):
    """Teacher knowledge on disk. This version reads the teacher live."""

    views: None = Field(default=None, description="null: live teacher")


class LogConfig(Frozen):
    """Where progress goes besides `log.csv`."""

    trackers: tuple[Tracker, ...] = Field(
        default=("tensorboard",), description=f"any of {', '.join(get_args(Tracker))}; [] for none"
    )


class RunConfig(Frozen):
    """A whole run."""

    out: str = Field(default="runs/digits", description="run folder")
    data: DataConfig = Field(default_factory=DataConfig)
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    student: ModelConfig = Field(default_factory=ModelConfig)
    method: str | dict[str, dict[str, Any]] = Field(
        default="mfkd", description="a preset, or methods with their options"
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), min_length=1, description="one student alone and one distilled for each"
    )

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
        return self

    def teacher_training(self) -> TrainConfig:
        """How the teacher is trained: `train` with the differences of `teacher.train`."""
        return validated(TrainConfig, {**self.train.model_dump(), **self.teacher.train}, "teacher.train.")


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
    return recipe_path(str(path)) if not path.is_file() and path.parent in (Path(), Path("recipes")) else path


def to_yaml(config: RunConfig) -> str:
    """The complete recipe as YAML, which reads back to the same config."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def config_hash(config: RunConfig) -> str:
    """Twelve hex digits over everything that can change a result (not `out`, `log`, `seeds`, `data.workers`)."""
    return fingerprint(settings(config))


def settings(config: RunConfig) -> dict[str, Any]:
    """Every key that can change a result, as plain values."""
    return config.model_dump(
        mode="json", exclude={"out": True, "log": True, "seeds": True, "data": {"workers", "root"}}
    )


def fingerprint(values: dict[str, Any]) -> str:
    """Twelve hex digits over plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
