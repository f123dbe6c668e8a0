"""A resolved recipe with its data and its folders."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mfkd.config import ModelConfig, RunConfig
from mfkd.data import ImageData, MemorySplit, filled, load_data, preprocessed
from mfkd.methods import resolve
from mfkd.train.feeding import own_preprocessing
from mfkd.train.job import Job
from mfkd.train.student import Card

Kind = Literal["alone", "distilled"]


@dataclass(frozen=True)
class Plan:
    """A resolved recipe with its data, ready to be worked through in its folder."""

    config: RunConfig
    data: ImageData
    teacher_name: str = "teacher"
    """Name in `RunConfig.named_teachers` of `config.teacher`, which is one of several in `per_teacher`."""
    teachers_in: Path | None = None
    """Folder of the teachers that are trained, tuned or measured here; None: the run folder."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.out).expanduser()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.data.channels, *self.data.size)

    def teacher_job(self) -> Job:
        """The teacher's own training."""
        config = self.config
        folder = (self.teachers_in or self.folder) / self.teacher_name
        return Job("teacher", folder, config, config.teacher_training(), config.teacher.seed)

    @property
    def models(self) -> list[str]:
        """Names of all networks."""
        return [self.config.student.model, *(one.model for one in self.config.named_teachers.values())]

    def per_teacher(self) -> "list[Plan]":
        """The plan once for each teacher, with that one alone."""
        return [
            replace(self, config=self.config.model_copy(update={"teacher": teacher, "teachers": ()}), teacher_name=name)
            for name, teacher in self.config.named_teachers.items()
        ]

    def student_job(self, kind: Kind, seed: int) -> Job:
        """One student of one seed."""
        return Job(kind, self.folder / kind / f"seed-{seed}", self.config, self.config.train, seed)


def open_plan(config: RunConfig, data: ImageData | None = None) -> Plan:
    """Read the data, fill in the defaults that depend on them, and check the method's options.

    Args:
        config: a recipe.
        data: what its `data` part names, where that has been read already.
    """
    resolve(config.method)
    data = load_data(config.data) if data is None else data
    images = filled(config.data, data, own_preprocessing(config.student))
    data = preprocessed(data, images)
    augment = config.augment
    augment = augment.model_copy(
        update={
            # Large images have no padding: null stands for random resized crops there.
            "crop_padding": data.crop_padding
            if augment.crop_padding is None and isinstance(data.train, MemorySplit)
            else augment.crop_padding,
            "flip": data.flip if augment.flip is None else augment.flip,
            "views": config.cache.views or augment.views,
        }
    )
    return Plan(config.model_copy(update={"data": images, "augment": augment}), data)


def card(plan: Plan, model: ModelConfig) -> Card:
    """What the weights file of a network that is trained by this plan will say of it."""
    data = plan.data
    return Card(
        model.model,
        data.classes,
        data.channels,
        data.size,
        data.mean,
        data.std,
        dict(model.options),
        data.resize,
        data.interpolation,
    )
