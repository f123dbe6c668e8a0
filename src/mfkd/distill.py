"""The Distiller: teacher, student and method as one module, for anybody's training loop."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError
from mfkd.items import Item, batch_of, from_loader
from mfkd.methods import build, resolve
from mfkd.methods.base import Context, Method, Preparation
from mfkd.methods.stage import Course
from mfkd.nn.rest import rest
from mfkd.taps.choose import TapsOf
from mfkd.taps.head import classifier
from mfkd.taps.probe import count_classes
from mfkd.taps.reader import read
from mfkd.teacher.aside import lay_aside
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.several import SeveralTeachers, frozen, listed
from mfkd.teacher.source import LiveSource, Source
from mfkd.types import UNLABELLED, Batch, DistillOutput, Knowledge, Outputs


class Distiller(nn.Module):
    """Computes the training loss of a student that learns from a frozen teacher.

    Args:
        teacher: any classifier, several of them (see `SeveralTeachers` for weights), or None for
            plain training. It is put in eval mode for ever, gets no gradients, and is no part of
            `state_dict` or `parameters`, but moves with `.to`.
        student: any classifier that returns logits (B, K).
        method: a preset ("mfkd": fusion with its logit partner; "kd"; "none"), a mapping of methods
            with options such as {"mfkd": {"weight": 16.0}, "kd": {}}, or a `Method` object.
        input_shape: (C, H, W) of one image.
        num_samples: upper bound of the sample index + 1, for methods that remember samples.
        labels: (num_samples,) training labels, for methods that need them all.
        label_smoothing: of the cross-entropy.
        epochs: passes that you plan, for methods with a stage that takes a share of them; 0: one pass.
        seed: of the method's own weights.

    Raises:
        ConfigError: unknown method or option, or a method that this teacher cannot serve.
        ShapeError: a network without usable feature maps, or that does not accept `input_shape`.

    Example:
        >>> import torch
        >>> from mfkd import Distiller, build_model
        >>> teacher, student = build_model("resnet20", num_classes=10), build_model("resnet8", num_classes=10)
        >>> distiller = Distiller(teacher, student, method="kd", input_shape=(3, 32, 32))
        >>> out = distiller(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]))
        >>> sorted(out.terms)
        ['ce', 'kd']
    """

    teacher: FrozenTeacher | None

    def __init__(
        self,
        teacher: nn.Module | Sequence[nn.Module] | None,
        student: nn.Module,
        method: str | Mapping[str, Mapping[str, Any]] | Method = "mfkd",
        *,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        num_samples: int = 0,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        epochs: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if any(network is student for network in listed(teacher)):
            raise ConfigError("teacher and student are the same object; build two networks.")
        spec = resolve(method)
        self.student = student
        self.input_shape = input_shape
        self.label_smoothing = label_smoothing
        self.epochs = epochs
        teacher = frozen(teacher, spec.temperature)
        # Kept out of the registered submodules, so that no optimiser, checkpoint or DDP sees it.
        object.__setattr__(self, "teacher", teacher)
        if teacher is None and spec.needs_teacher:
            raise ConfigError(
                f"method {', '.join(spec.methods)} needs a teacher, got None; use method='none' for plain training."
            )
        self.num_classes = num_classes = count_classes(student, input_shape)
        student_taps = TapsOf(student, input_shape) if spec.methods else {}
        teacher_taps = teacher.taps(input_shape) if teacher is not None and spec.methods else {}
        context = Context(
            student=student_taps,
            teacher=teacher_taps,
            num_classes=num_classes,
            num_samples=num_samples,
            teacher_logits=teacher is not None and teacher.count_classes(input_shape) == num_classes,
            labels=labels,
            teacher_classifier=lambda: None if teacher is None else teacher.classifier(input_shape),
            student_classifier=lambda: classifier(student, student_taps),
            teacher_norm=lambda name: None if teacher is None else teacher.norm(name, input_shape),
            teachers=len(teacher.members) if isinstance(teacher, SeveralTeachers) else 1,
            epochs=epochs,
            seed=seed,
        )
        self.objective = build(spec, context)
        like = next(student.parameters(), None)
        if like is not None:  # what the methods bring goes where the networks are
            self.objective.to(like.device, torch.float64 if like.dtype == torch.float64 else None)
        # DDP reads this: buffers that it need not send from the first process to all at each step.
        self._ddp_params_and_buffers_to_ignore = [
            f"objective.methods.{name}.{buffer}" for name, m in self.objective.named() for buffer in m.kept_equal
        ]
        self.notes: list[str] = list(self.objective.notes)
        needs = self.objective.needs
        self.student_taps = [student_taps[name] for name in needs.student]
        self.source: Source | None = None
        self.tapped: Callable[[Tensor], Outputs] | None = None
        self.shared_seconds: dict[str, float] = {}
        self.resting: Sequence[str] = ()
        """Paths of the student's modules that stay in eval mode while it is trained, see `train.freeze`."""
        if teacher is not None and spec.methods:
            self.source = LiveSource(teacher, {name: teacher_taps[name] for name in needs.teacher}, self.objective)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, index: Tensor | None = None, target: Tensor | None = None,
        knowledge: Knowledge | None = None,
    ) -> DistillOutput:  # fmt: skip
        """One step's loss.

        Args:
            images: (B, C, H, W) normalised for the student.
            labels: (B,) int64 classes, -1 where an image has none; None if no image has one.
            index: (B,) int64 source rows, for methods that remember samples.
            target: (B, K) class weights of mixed images, in place of the labels.
            knowledge: what `ahead` gave for these images; None asks the teacher.
        """
        if index is None and self.objective.needs.index:
            raise ConfigError("this method remembers samples: call distiller(images, labels, index) with their rows.")
        batch = batch_of(images, labels, index, target)
        if knowledge is None and self.source is not None and not self.objective.idle:
            knowledge = self.source.knowledge(batch)
        outputs = self.outputs(images)
        try:
            loss, terms = self.objective(outputs, knowledge, batch, self.label_smoothing)
        except IndexError as error:  # torch's own, on the CPU; looking at the labels first would stall a GPU
            wrong = batch.label[(batch.label < UNLABELLED) | (batch.label >= self.num_classes)]
            if not len(wrong):
                raise
            raise ShapeError(
                f"distiller got label {int(wrong[0])}, the student has {self.num_classes} classes; number the labels "
                f"from 0 ({UNLABELLED}: none), or build the student with more classes."
            ) from error
        detached = {name: term.detach() for name, term in terms.items()}
        return DistillOutput(loss, detached, outputs.logits, self.objective.watched())

    def outputs(self, images: Tensor) -> Outputs:
        """The student's logits and those of its taps that the methods need."""
        return read(self.student, images, self.student_taps) if self.tapped is None else self.tapped(images)

    def quicken(self) -> None:
        """Let a live teacher answer the fast way, by a copy of its weights as they are now; the trainer calls this.

        The weights of a teacher that is not asked in a step are laid aside, see `lay_aside`.
        """
        if isinstance(self.source, LiveSource):
            self.source.quicken(self.input_shape)
        elif self.teacher is not None:
            self.teacher.slow()
            lay_aside(self.teacher)

    def ahead(self, batch: Batch) -> Knowledge | None:
        """The knowledge of a batch where it lies on disk, to be read before the step; else None."""
        return None if self.source is None or self.objective.idle else self.source.ahead(batch)

    def prepare(
        self,
        loader: Iterable[Item],
        *,
        teacher_only: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        on_step: Callable[[str, int, int], None] | None = None,
        course: Course | None = None,
    ) -> int:
        """Run each method's stage before training, such as the calibration of MFKD's teacher fusion.

        Build the optimiser afterwards: what has been calibrated is frozen then. Methods without
        such a stage, or that have done it, return at once.

        Args:
            loader: yields (images, labels) with or without rows behind them, images alone, or `Batch`; it is walked
                through once an epoch.
            teacher_only: leave out the stages that train the student, which cannot be shared by several.
            autocast: context in which the networks run, for mixed precision.
            on_step: called with the method's name, updates done and updates in all (0: unknown).
            course: to be asked in `on_step` for what it takes to go on, and to go on with it later; the
                loader then begins with the images of the next update, and has a length.

        Returns:
            Epochs in which the student itself was trained; they are part of the run's budget.
        """
        course = Course() if course is None else course
        if not teacher_only:
            self.check_epochs(course.point.taken)
        for name, method in self.objective.named():
            stage = method.preparation()
            if stage is not None and self.source is not None and not (teacher_only and stage.trains_student):
                self._run_stage(name, stage, self.source, loader, course, autocast=autocast, on_step=on_step)
        course.close()
        return course.point.taken

    def check_epochs(self, taken: int = 0) -> None:
        """Refuse stages that train the student, after others that took epochs, and leave none of the run to train."""
        for name, method in self.objective.named():
            stage = method.preparation()
            if stage is not None and stage.trains_student:
                taken += stage.epochs
                if 0 < self.epochs <= taken:
                    raise ConfigError(
                        f"{name} prepares the student for {stage.epochs} of {self.epochs} epochs, which leaves none "
                        "to train; give the run more epochs."
                    )

    def train(self, mode: bool = True) -> "Distiller":
        """As of any module; what `train.freeze` lets rest stays in eval mode."""
        super().train(mode)
        if mode:
            rest(self.student, self.resting)
        return self

    def set_progress(self, progress: float) -> None:
        """Tell the methods how far the run is, 0 to 1; warm-ups, fades and curricula follow it.

        Until it is called, every weight is full. Call it before each step, as with updates done / updates in all.
        """
        self.objective.set_progress(progress)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Parameters of student and method that an optimiser should get; call after `prepare`."""
        return [p for p in self.parameters() if p.requires_grad]

    def _run_stage(
        self,
        name: str,
        stage: Preparation,
        source: Source,
        loader: Iterable[Item],
        course: Course,
        *,
        autocast: Callable[[], AbstractContextManager[Any]],
        on_step: Callable[[str, int, int], None] | None,
    ) -> None:
        device = next(self.student.parameters()).device
        steps = length_hint(loader)
        if stage.trains_student:
            self.student.train()
            rest(self.student, self.resting)
        course.begin(name, stage, list(self.student.parameters()), stage.epochs * steps)
        for _ in range(course.point.done // steps if steps else 0, stage.epochs):
            before = course.point.done
            for item in loader:
                batch = from_loader(item, device)  # no stage remembers samples, so that rows may be missing
                with autocast():
                    raw = source.raw(batch)
                    outputs = self.outputs(batch.image) if stage.trains_student else None
                    loss = stage.step(outputs, raw, batch)
                course.update(loss)
                if on_step is not None:
                    on_step(name, course.point.done, course.point.total)
            if course.point.done == before:
                raise ConfigError(
                    f"prepare got a loader that yields no batch ({stage.epochs} passes wanted); "
                    "give a list or DataLoader, not a used-up iterator."
                )
        course.end(stage)

    def deployed(self, student: nn.Module | None = None) -> nn.Module:
        """The network to evaluate and hand over: the student, unless a method replaces a part of it.

        Args:
            student: a copy of the student to take in its place, such as an averaged one.
        """
        student = self.student if student is None else student
        for _, method in self.objective.named():
            network = method.deployed(student)
            if network is not None:
                return network
        return student

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.teacher is not None:
            self.teacher._apply(fn)
        return self
