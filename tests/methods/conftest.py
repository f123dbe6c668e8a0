import pytest
import torch

from mfkd.methods.base import Context
from mfkd.types import Batch, Knowledge, Outputs, TapSpec

CLASSES = 5
STUDENT = {"front": (2, 8, 8), "middle": (3, 4, 4), "bottom": (4, 2, 2)}
TEACHER = {"front": (4, 8, 8), "middle": (6, 4, 4), "bottom": (8, 2, 2)}


def specs(shapes):
    return {name: TapSpec(name, name, shape[0], shape=shape) for name, shape in shapes.items()}


@pytest.fixture
def make_context():
    def make(**changes):
        vector = TapSpec("penultimate", "fc", 8, side="input", layout="vector", shape=(8,))
        values = {"student": specs(STUDENT), "teacher": {**specs(TEACHER), "penultimate": vector}}
        return Context(**{**values, "num_classes": CLASSES, **changes})

    return make


@pytest.fixture
def make_inputs():
    """Student outputs, raw teacher knowledge and a batch, all drawn from a seed."""

    def make(batch=4, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(batch, *shape, generator=generator).to(dtype)

        student = Outputs(draw(CLASSES).requires_grad_(), {n: draw(*s).requires_grad_() for n, s in STUDENT.items()})
        teacher = Knowledge(draw(CLASSES), {name: draw(*shape) for name, shape in TEACHER.items()})
        rows = torch.arange(batch)
        return student, teacher, Batch(draw(3, 16, 16), rows % CLASSES, rows)

    return make
