"""The loss of the student: cross-entropy and the methods' terms, weighted, warmed up and faded out in one place.

Shapes:    B batch; K classes.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.functional.ce import cross_entropy
from mfkd.functional.precision import full, full_taps, no_autocast
from mfkd.methods.base import Method
from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps


class Objective(nn.Module):
    """Weighted sum of cross-entropy and every method's terms, in float32 (float64 where the networks are).

    Args:
        methods: by name; weight, warm-up and fade are those of each method's config.
        ce: weight of the cross-entropy; 0 is allowed.
        notes: what was left out, for the user to read.

    Attributes:
        needs: what all methods together want to be fed.
    """

    def __init__(self, methods: Mapping[str, Method], ce: float = 1.0, notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.methods = nn.ModuleDict(methods)
        self.ce = ce
        self.notes = notes
        self.needs = _merged([method.needs for method in methods.values()])
        self.progress: float | None = None  # in a loop that does not tell it, a warm-up would never end

    def describe(self) -> dict[str, dict[str, Any]]:
        """Every weight and option as a recipe's `method` would hold it; empty for plain training."""
        if not self.methods and self.ce == 1:
            return {}
        return {"ce": {"weight": self.ce}, **{name: m.config.model_dump(mode="json") for name, m in self.named()}}

    def named(self) -> list[tuple[str, Method]]:
        """The methods by name."""
        return [(name, method) for name, method in self.methods.items() if isinstance(method, Method)]

    @property
    def idle(self) -> bool:
        """Whether no method adds a term any more, so that nothing need be asked of the teacher."""
        return all(method.idle for _, method in self.awake())

    def resting(self, name: str) -> bool:
        """Whether the weight of a method has faded out, so that neither its term nor its knowledge is wanted."""
        fade = dict(self.named())[name].config.fade
        return fade is not None and self.progress is not None and self.progress >= fade

    def awake(self) -> list[tuple[str, Method]]:
        """The methods whose weight has not faded out."""
        return [(name, method) for name, method in self.named() if not self.resting(name)]

    def set_progress(self, progress: float) -> None:
        """Tell every method how far the run is, 0 to 1."""
        self.progress = progress
        for _, method in self.named():
            method.progress = progress

    def watched(self) -> dict[str, Tensor]:
        """What the methods have to log of the last forward pass beside their terms."""
        return {name: value for _, method in self.awake() for name, value in method.watched().items()}

    def weight(self, name: str) -> float:
        """The factor of a method's terms now: its weight, which rises over its warm-up and falls over its fade."""
        config = dict(self.named())[name].config
        weight = config.weight
        if self.progress is None:
            return weight
        if config.warmup:
            weight *= min(1.0, self.progress / config.warmup)
        if config.fade is not None:
            weight *= max(0.0, 1.0 - self.progress / config.fade)
        return weight

    def _ask_for_progress(self) -> None:
        fading = [name for name, method in self.named() if method.config.fade is not None]
        if fading:  # Python shows it once
            warnings.warn(
                f"the weight of {', '.join(fading)} should fade, and nobody has told how far the run is: call "
                "distiller.set_progress(step / steps) before each step, or name the method in a mapping, without fade.",
                stacklevel=2,
            )

    def forward(
        self, student: Outputs, teacher: Knowledge | None, batch: Batch, label_smoothing: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the unweighted terms by name with `ce` first; a weight that has faded out has none.

        Args:
            student: logits (B, K) and the taps of `needs.student`; gradients flow.
            teacher: what `teacher.source` gives; None only if no method needs a teacher.
            batch: labels, or mixed targets.
            label_smoothing: of the cross-entropy alone.

        Raises:
            TrainingError: methods without knowledge.
            ShapeError: a term that is not a scalar.
            ConfigError: two methods with a term of one name.
        """
        if self.progress is None and self.training:
            self._ask_for_progress()
        with no_autocast(student.logits):
            raw, student = student.taps, Outputs(full(student.logits), full_taps(self._compared(student.taps)))
            terms = {"ce": cross_entropy(student.logits, batch.label, batch.target, label_smoothing)}
            loss = self.ce * terms["ce"]
            if teacher is None:
                if any(method.needs_teacher and not method.idle for _, method in self.awake()):
                    raise TrainingError(f"{', '.join(self.methods)} need the teacher's knowledge, got none.")
                teacher = Knowledge()
            logits = None if teacher.logits is None else full(teacher.logits)
            teacher = Knowledge(logits, full_taps(teacher.taps))
            for name, method in self.awake():
                own = Outputs(student.logits, raw) if method.mixed else student
                for term, value in method(own, teacher, batch).items():
                    if term in terms:
                        raise ConfigError(f"{name} names a term {term!r}, and so does another part; rename one.")
                    if value.ndim:
                        raise ShapeError(f"term {term!r} of {name} must be a scalar, got {tuple(value.shape)}.")
                    terms[term] = value
                    loss = loss + self.weight(name) * value
            for name, method in self.named():
                if self.resting(name):  # DDP waits for a gradient of every parameter
                    loss = loss + 0.0 * sum(part.sum() for part in method.parameters() if part.requires_grad)
        return loss, terms

    def _compared(self, taps: Taps) -> Taps:
        """The student's maps that a method wants in full precision; converting the others would only cost time."""
        wanted = {tap for _, method in self.awake() if not method.mixed for tap in method.needs.student}
        return {name: tap for name, tap in taps.items() if name in wanted}


def _merged(needs: list[Needs]) -> Needs:
    return Needs(
        student=tuple(dict.fromkeys(tap for need in needs for tap in need.student)),
        teacher=tuple(dict.fromkeys(tap for need in needs for tap in need.teacher)),
        logits=any(need.logits for need in needs),
        labels=any(need.labels for need in needs),
        index=any(need.index for need in needs),
    )
