"""The networks of a run, opened again as far as they are there, and what they say of the test images."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mfkd.config import DataConfig
from mfkd.data import ImageData, eval_loader
from mfkd.data.sets import Split
from mfkd.errors import MfkdError
from mfkd.handed import teacher_of
from mfkd.plan import Kind, Plan, open_plan
from mfkd.report.folder import RunFolder
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.train.loop import EVAL_BATCH
from mfkd.train.student import load_student

MOST = 10_000
"""Test images that are looked at; of more, every so many."""


@dataclass
class Networks:
    """What could be opened.

    Args:
        plan: data and recipe.
        split: the test images that are looked at.
        students: by kind and seed, in eval mode on the CPU.
        teacher: None where it is not there any more.
        missing: what could not be opened, in sentences.
    """

    plan: Plan
    split: Split
    students: dict[Kind, dict[int, nn.Module]]
    teacher: FrozenTeacher | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def data(self) -> ImageData:
        """The images."""
        return self.plan.data

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.plan.input_shape


@dataclass(frozen=True, eq=False)
class Answers:
    """Probabilities for the same images.

    Args:
        labels: (N,) int64.
        students: by kind, (S, N, K), seeds as in the networks.
        teacher: (N, K), or None.
    """

    labels: Tensor
    students: dict[Kind, Tensor]
    teacher: Tensor | None

    def said(self, kind: Kind) -> Tensor:
        """(S, N) the likeliest classes."""
        return self.students[kind].argmax(2)


def open_networks(folder: RunFolder) -> tuple[Networks | None, list[str]]:
    """Open the data and the networks of a run; nothing is trained, and nothing is written.

    Returns:
        None where the images are not there any more; and what is missing, in sentences.
    """
    try:
        plan = open_plan(folder.config)
    except (MfkdError, OSError) as error:
        return None, [f"The images could not be read, so nothing that needs them is shown here: {error}"]
    test = plan.data.test
    step = -(-len(test) // MOST)
    split = test if step == 1 else test.take(torch.arange(0, len(test), step))
    missing = [] if step == 1 else [f"Of {len(test):,} test images every {step}th was looked at for what follows."]
    found = Networks(plan, split, {"alone": {}, "distilled": {}}, missing=missing)
    for kind, records in folder.students.items():
        for seed in records:
            job = plan.student_job(kind, seed)
            network = _opened(lambda file=job.weights: load_student(file), job.title, missing)  # type: ignore[misc]
            if network is not None:
                found.students[kind][seed] = network
    if folder.distilled:
        teacher = _opened(lambda: teacher_of(folder.path, plan.config, plan.data), "teacher", missing)
        if isinstance(teacher, FrozenTeacher):
            found.teacher = teacher
        elif not any(line.startswith("The teacher") for line in missing):
            missing.append("The teacher's weights are not there any more, so its maps and answers are left out.")
    return found, missing


def _opened(make: Callable[[], nn.Module | None], title: str, missing: list[str]) -> nn.Module | None:
    try:
        return make()
    except (MfkdError, OSError) as error:
        missing.append(f"The {title} could not be opened and is left out: {error}")
        return None


@torch.no_grad()
def ask(networks: Networks) -> Answers:
    """What all networks say of the test images."""
    teacher = networks.teacher
    asked: dict[tuple[str, int], Callable[[Tensor], Tensor]] = {
        (kind, seed): network for kind, found in networks.students.items() for seed, network in found.items()
    }
    if teacher is not None and teacher.count_classes(networks.shape) == len(networks.data.classes):
        asked["teacher", 0] = teacher.logits
    said: dict[tuple[str, int], list[Tensor]] = {key: [] for key in asked}
    for batch in eval_loader(
        networks.split, networks.data, networks.plan.config.data, batch_size=EVAL_BATCH, device="cpu"
    ):
        for key, network in asked.items():
            said[key].append(network(batch.image).float().softmax(1))
    found = {key: torch.cat(parts) for key, parts in said.items()}
    students: dict[Kind, Tensor] = {}
    for kind, opened in networks.students.items():
        if opened:
            students[kind] = torch.stack([found[kind, seed] for seed in opened])
    return Answers(networks.split.labels, students, found.get(("teacher", 0)))


def inputs(split: Split, data: ImageData, config: DataConfig, places: list[int]) -> tuple[Tensor, Tensor]:
    """Some images as the networks get them, (B, C, H, W), and as they look, (B, C, H, W) uint8."""
    chosen = split.take(torch.tensor(places, dtype=torch.int64))
    image = torch.cat([batch.image for batch in eval_loader(chosen, data, config, batch_size=EVAL_BATCH, device="cpu")])
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return image, ((image * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
