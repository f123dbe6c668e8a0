"""A preparation under way: the optimiser of its stage, and what it takes to go on with it exactly."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from mfkd.errors import ConfigError
from mfkd.methods.base import Preparation
from mfkd.nn.restore import restore_optimizer

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Point:
    """Where a preparation is.

    Args:
        stage: name of the method whose stage is run; "" before the first.
        done: updates done in it.
        total: updates in all of it; 0 where that is not known.
        scheduled: those of `done` that moved a weight, which the learning rate follows.
        before: updates in the stages before it.
        taken: epochs for which the stages before it trained the student.
        optimizer: state of its optimiser; None where it has none.
    """

    stage: str = ""
    done: Count = 0
    total: Count = 0
    scheduled: Count = 0
    before: Count = 0
    taken: Count = 0
    optimizer: dict[str, Any] | None = None


_POINT = TypeAdapter(Point)


class Course:
    """How far a preparation is. Weights and statistics are not part of it: they are the distiller's.

    Args:
        saved: what `state_dict` gave, to go on from there; the distiller's own state and the images from that
            update on are the caller's to bring. None begins at the beginning.
        fitting: context in which it is taken up, for the caller to tell what does not fit.

    Attributes:
        point: where it is; that of the optimiser is told by `state_dict` alone.

    Raises:
        ValueError: values that no preparation has.
    """

    def __init__(
        self,
        saved: dict[str, Any] | None = None,
        fitting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.point, self.fitting, self.pending = Point(), fitting, saved is not None
        self.optimizer: torch.optim.Optimizer | None = None
        self.schedule: torch.optim.lr_scheduler.OneCycleLR | None = None
        if saved is not None:
            with fitting():
                self.point = _POINT.validate_python(saved)
                if not self.point.scheduled <= self.point.done <= self.point.total or not self.point.done:
                    raise ValueError(f"update {self.point.done} of {self.point.total} in a preparation")

    @property
    def updates(self) -> int:
        """Done in all stages."""
        return self.point.before + self.point.done

    def begin(self, name: str, stage: Preparation, student: Sequence[nn.Parameter], total: int) -> None:
        """Build the optimiser of a stage, or take it up.

        Args:
            name: of the method.
            stage: to run.
            student: parameters of the student, which the stage may train.
            total: updates in all; 0 where that is not known.
        """
        self.optimizer = self.schedule = None
        parameters = [*stage.parameters, *(student if stage.trains_student else ())]
        if parameters:
            self.optimizer = torch.optim.SGD(parameters, lr=stage.lr, momentum=0.9, weight_decay=5e-4)
            if total > 1:  # it moves the momentum as well, from 0.95 down to 0.85 and back
                self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=stage.lr, total_steps=total)
        if not self.pending:
            self.point = replace(self.point, stage=name, done=0, total=total, scheduled=0)
            return
        with self.fitting():
            self._take_up(name, total)
        self.pending = False

    def update(self, loss: Tensor | None) -> None:
        """One update of the stage; None is a loss that trains nothing.

        Raises:
            ConfigError: a loss that depends on nothing that learns.
        """
        if loss is not None and not loss.requires_grad:
            raise ConfigError(
                f"{self.point.stage} prepares parts of the student that are all frozen; freeze fewer of them with "
                "train.freeze, or choose another method."
            )
        moved = self.optimizer is not None and loss is not None
        if self.optimizer is not None and loss is not None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
        self.point = replace(self.point, done=self.point.done + 1, scheduled=self.point.scheduled + moved)

    def end(self, stage: Preparation) -> None:
        """Finish a stage."""
        if self.optimizer is not None:
            self.optimizer.zero_grad()  # else the last gradients would be part of the training's first update
        stage.finish()
        taken = self.point.taken + (stage.epochs if stage.trains_student else 0)
        self.point = Point(before=self.updates, taken=taken)

    def close(self) -> None:
        """All stages are done.

        Raises:
            ValueError: not the one that was to be gone on with.
        """
        if self.pending:
            with self.fitting():
                raise ValueError(f"it was preparing {self.point.stage}, which is done or not part of it")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, between two updates of a stage."""
        return {**asdict(self.point), "optimizer": None if self.optimizer is None else self.optimizer.state_dict()}

    def _take_up(self, name: str, total: int) -> None:
        own = self.point
        if (own.stage, own.total) != (name, total) or (own.optimizer is None) != (self.optimizer is None):
            raise ValueError(f"it was preparing {own.stage}, {own.total} updates, not {name}, {total} updates")
        if self.optimizer is not None and own.optimizer is not None:
            restore_optimizer(self.optimizer, own.optimizer)
        if self.schedule is not None:
            self.schedule.last_epoch = own.scheduled  # all else of it stands in the optimiser's groups
        self.point = replace(own, optimizer=None)
