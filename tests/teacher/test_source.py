import pytest
import torch
from torch import Tensor

from mfkd.methods.base import Method
from mfkd.methods.objective import Objective
from mfkd.models import build_model
from mfkd.taps import find_taps, read
from mfkd.teacher import FrozenTeacher, LiveSource
from mfkd.types import Batch, Needs

SHAPE = (3, 16, 16)


class Raw(Method):
    def __init__(self, *taps, logits=False):
        super().__init__()
        self.needs = Needs(teacher=taps, logits=logits)


class Doubled(Raw):
    def knowledge(self, taps: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen = set(taps)
        return {"doubled/sum": sum(tap.mean((1, 2, 3)) for tap in taps.values()) * 2}


@pytest.fixture
def setup():
    network = build_model("resnet8", num_classes=5).eval()
    image = torch.randn(4, *SHAPE)
    specs = find_taps(network, SHAPE)
    expected = read(network, image, specs.values())
    return FrozenTeacher(network), specs, Batch(image, torch.zeros(4).long(), torch.arange(4)), expected


def test_raw_gives_the_wanted_taps_by_the_name_they_were_asked_for(setup):
    teacher, specs, batch, expected = setup
    source = LiveSource(teacher, {**specs, "mine": specs["stage2"]}, Objective({"a": Raw("mine", "stage2", "bottom")}))
    raw = source.raw(batch)
    assert set(raw.taps) == {"mine", "stage2", "bottom"}
    assert torch.equal(raw.taps["mine"], expected.taps["stage2"])
    assert torch.equal(raw.taps["bottom"], expected.taps["stage3"])
    assert torch.equal(raw.logits, expected.logits)


def test_knowledge_is_what_each_method_makes_of_its_own_taps(setup):
    teacher, specs, batch, expected = setup
    doubled = Doubled("front", "middle")
    knowledge = LiveSource(teacher, specs, Objective({"a": doubled, "b": Raw("bottom")})).knowledge(batch)
    assert doubled.seen == {"front", "middle"}
    assert set(knowledge.taps) == {"doubled/sum", "bottom"}
    total = 2 * (expected.taps["front"].mean((1, 2, 3)) + expected.taps["middle"].mean((1, 2, 3)))
    assert torch.allclose(knowledge.taps["doubled/sum"], total)
    assert knowledge.logits is None


def test_logits_are_given_where_a_method_needs_them(setup):
    teacher, specs, batch, expected = setup
    knowledge = LiveSource(teacher, specs, Objective({"a": Raw(logits=True)})).knowledge(batch)
    assert torch.equal(knowledge.logits, expected.logits)
    assert knowledge.taps == {}
