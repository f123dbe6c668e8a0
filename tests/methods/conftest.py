import pytest
import torch
from torch import nn

from mfkd.methods.base import Context
from mfkd.types import Batch, Knowledge, Outputs, TapSpec

CLASSES = 5
STUDENT = {"front": (2, 8, 8), "middle": (3, 4, 4), "bottom": (4, 2, 2)}
TEACHER = {"front": (4, 8, 8), "middle": (6, 4, 4), "bottom": (8, 2, 2)}
ALIASES = {"stage1": "front", "stage2": "middle", "stage3": "bottom"}


def specs(shapes):
    return {name: TapSpec(name, name, shape[0], shape=shape) for name, shape in shapes.items()}


def network(shapes):
    """Specs of a whole network: each map also as its stage, after and before the activation, and the pooled vector."""
    named = {stage + end: shapes[alias] for stage, alias in ALIASES.items() for end in ("", ".pre")}
    width = shapes["bottom"][0]
    vector = TapSpec("penultimate", "fc", width, side="input", layout="vector", shape=(width,))
    return {**specs({**shapes, **named}), "penultimate": vector}


def complete(taps):
    """The same of tensors."""
    named = {stage + end: taps[alias] for stage, alias in ALIASES.items() for end in ("", ".pre")}
    return {**taps, **named, "penultimate": taps["bottom"].mean((2, 3))}


def norm(name):
    """The BatchNorm before a teacher tap, with weights from a seed of its own."""
    alias = ALIASES.get(name.removesuffix(".pre"), name)
    module = nn.BatchNorm2d(TEACHER[alias][0])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        module.weight.uniform_(0.5, 1.5, generator=generator)
        module.bias.normal_(generator=generator)
    return module


@pytest.fixture
def make_context():
    def make(**changes):
        values = {
            "student": network(STUDENT),
            "teacher": network(TEACHER),
            "teacher_classifier": lambda: nn.Linear(TEACHER["bottom"][0], CLASSES).requires_grad_(False),
            "student_classifier": lambda: nn.Linear(STUDENT["bottom"][0], CLASSES),
            "teacher_norm": norm,
        }
        return Context(**{**values, "num_classes": CLASSES, **changes})

    return make


@pytest.fixture
def make_inputs():
    """Student outputs, raw teacher knowledge and a batch, all drawn from a seed; `stages` adds those and vectors."""

    def make(batch=4, seed=0, dtype=torch.float32, stages=False):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(batch, *shape, generator=generator).to(dtype)

        student = Outputs(draw(CLASSES).requires_grad_(), {n: draw(*s).requires_grad_() for n, s in STUDENT.items()})
        teacher = Knowledge(draw(CLASSES), {name: draw(*shape) for name, shape in TEACHER.items()})
        for side in (student, teacher) if stages else ():
            side.taps = complete(side.taps)
        rows = torch.arange(batch)
        return student, teacher, Batch(draw(3, 16, 16), rows % CLASSES, rows)

    return make
