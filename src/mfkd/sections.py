"""The parts of a recipe about images, their augmentation and one training; `config` puts the whole together."""

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from mfkd.hardware import fast_bf16
from mfkd.validation import Frozen

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tracker = Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"]


def choose_precision(value: Any) -> Any:
    """What `train.precision: auto` stands for on this machine; any other value as it is."""
    if value != "auto":
        return value
    return "bf16" if fast_bf16() else "fp32"


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
    test_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of each class that is the test split, for a folder of class folders without train/",
        exclude_if=lambda share: share is None,  # so that folders from before there was this go on
    )
    split_seed: int = Field(default=0, ge=0, description="decides which images are used and held out")
    evaluate: Literal["test", "val"] = Field(
        default="test",
        description="images that all figures are of; with val the test images are not looked at",
        exclude_if=lambda split: split == "test",  # as `test_fraction`
    )
    resize: Positive | None = Field(
        default=None, description="scale small images to this size, shorter side of large ones"
    )
    image_size: Positive | None = Field(
        default=None,
        description="size of the crop of large images (folders); null: a pretrained student's, else 224",
    )
    crop: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the shorter side that evaluation keeps of large images; null: a pretrained student's, "
        "else 0.875",
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = Field(
        default=None, description="how large images are scaled; null: as for a pretrained student, else bilinear"
    )
    mean: tuple[Share, ...] | None = Field(
        default=None, description="of each channel, on the scale 0..1; null: a pretrained student's, else the data's"
    )
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None, description="deviation of each channel, as `mean`"
    )
    class_names: str | None = Field(
        default=None, description="file of one class name a line, in the order of the labels; null: the data's own"
    )
    unlabelled: str | None = Field(
        default=None, description="folder of images without classes, added to the distillation"
    )
    unreadable: Literal["error", "skip"] = Field(
        default="error",
        description="an image that cannot be read ends the run, or is listed and left out",
        exclude_if=lambda how: how == "error",  # as `test_fraction`
    )
    copies: Positive | None = Field(
        default=None,
        description="shorter side of copies of large training images, made once and read in their place; null: none",
        exclude_if=lambda side: side is None,  # as `test_fraction`
    )
    workers: Annotated[int, Field(ge=0)] = Field(default=2, description="processes that read large images")


class AugmentConfig(Frozen):
    """Augmentation; null means the data set's own default."""

    crop_padding: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="zero padding before a random crop, px"
    )
    flip: bool | None = Field(default=None, description="random horizontal flip")
    scale: tuple[Share, Share] = Field(
        default=(0.08, 1.0), description="area of a random resized crop of large images, as shares of the image"
    )
    ratio: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="width by height of such a crop")
    auto: Literal["none", "randaugment", "trivialaugment"] = Field(
        default="none", description="random operations on colour and shape, image by image"
    )
    num_ops: Positive = Field(default=2, description="operations an image, of randaugment")
    magnitude: int = Field(default=9, ge=0, le=30, description="strength of these operations, 0..30")
    jitter: NonNegative = Field(default=0.0, description="strength of random brightness, contrast and saturation")
    erasing: Share = Field(default=0.0, description="share of the images of which a random box is erased")
    mixup: NonNegative = Field(default=0.0, description="alpha of mixup, 0 is off")
    cutmix: NonNegative = Field(default=0.0, description="alpha of cutmix, 0 is off")
    views: Positive | None = Field(
        default=None,
        description="augmented views of an image, seen in turn; null: cache.views, else a new one each epoch",
    )
    view_seed: int = Field(
        default=0, ge=0, description="augmentation is a pure function of this, the view and the image"
    )

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} must rise from above 0, got [{low:g}, {high:g}]")
        default = type(self).model_fields
        for name in ("num_ops", "magnitude"):
            if self.auto != "randaugment" and getattr(self, name) != default[name].default:
                raise ValueError(f"{name} is for auto=randaugment, got auto={self.auto}")
        return self


class CheckpointConfig(Frozen):
    """When a training is written down besides at the end of each epoch; no result depends on it."""

    every_steps: Positive | None = Field(default=None, description="updates between checkpoints within an epoch")
    every_minutes: float | None = Field(
        default=10.0, gt=0, allow_inf_nan=False, description="minutes between checkpoints within an epoch"
    )
    keep: Positive = Field(default=2, description="checkpoints that are kept, for the case that one is damaged")


class TrainConfig(Frozen):
    """One training of one network; the published CIFAR-100 protocol by default."""

    epochs: Positive = Field(default=240, description="passes over the training images")
    batch_size: Positive = Field(default=64, description="images an update, over all processes and accumulated parts")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="what updates the weights")
    lr: float = Field(default=0.05, gt=0, allow_inf_nan=False, description="peak learning rate")
    momentum: Share = Field(default=0.9, description="of sgd")
    nesterov: bool = Field(default=False, description="look ahead along the momentum")
    weight_decay: NonNegative = Field(default=5e-4, description="on all weights, BatchNorm's and biases too")
    no_decay: bool = Field(default=False, description="leave biases and the weights of norms out of weight_decay")
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="factor of the student's learning rate for each layer below its head"
    )
    freeze: tuple[str, ...] = Field(
        default=(), description="stages (`mfkd taps`) or module paths of the student that stay as they are"
    )
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
        default="fp32",
        description="the half precisions are mixed with fp32, fp16 needs CUDA; auto: bf16 if the hardware has it, or "
        "fp32",
    )
    accumulate: Positive = Field(default=1, description="parts into which a batch is split")
    channels_last: bool = Field(default=True, description="memory layout of images and weights; usually faster")
    compile: Literal["auto", True, False] = Field(
        default="auto", description="compile the networks; auto: where it should repay its own time within the run"
    )
    sync_batchnorm: bool = Field(default=False, description="share BatchNorm statistics between processes (CUDA)")
    evaluate_every: Positive = Field(default=1, description="epochs between evaluations; the last epoch always counts")

    @field_validator("precision", mode="before")
    @classmethod
    def _choose_precision(cls, value: Any) -> Any:
        return choose_precision(value)

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.milestones != tuple(sorted(set(self.milestones))):
            raise ValueError(f"milestones must rise, got {list(self.milestones)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into accumulate={self.accumulate} equal parts"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer sgd and momentum above 0; set nesterov=false")
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} is longer than epochs {self.epochs}")
        return self


# Measured, see docs/cache.md: with four epochs to a view a cache repays its building in a single run, and more views
# than that gained less than a point.
EPOCHS_A_VIEW, MOST_VIEWS = 4, 16


class CacheConfig(Frozen):
    """Teacher knowledge on disk; see docs/cache.md."""

    views: Positive | None = Field(
        default=None,
        description="augmented views an image whose knowledge is kept on disk; null: live teacher; "
        f"auto: one for every {EPOCHS_A_VIEW} epochs, {MOST_VIEWS} at most",
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        default="float16", description="how knowledge is stored; float32 repeats a live run to its last digits"
    )
    folder: str | None = Field(
        default=None, description="folder of this one cache; null: one of its own below ~/.cache/mfkd/knowledge"
    )


class LogConfig(Frozen):
    """Where progress goes besides `log.csv`."""

    trackers: tuple[Tracker, ...] = Field(
        default=("tensorboard",), description=f"any of {', '.join(get_args(Tracker))}; [] for none"
    )


def split_name(evaluate: str | None) -> str:
    """What the images are called that `data.evaluate` names, in recipe, record or export; None is its default."""
    return "validation" if evaluate == "val" else "test"


def choose_views(raw: dict[str, Any]) -> dict[str, Any]:
    """A raw recipe in which `cache.views: auto` is the number that fits `train.epochs`."""
    cache, train = raw.get("cache"), raw.get("train")
    if not isinstance(cache, dict) or cache.get("views") != "auto":
        return raw
    given = {name: train[name] for name in ("epochs",) if name in train} if isinstance(train, dict) else {}
    try:
        epochs = TrainConfig.model_validate(given).epochs
    except ValidationError:  # which the whole recipe is refused for
        epochs = TrainConfig().epochs
    return {**raw, "cache": {**cache, "views": max(1, min(epochs // EPOCHS_A_VIEW, MOST_VIEWS))}}
