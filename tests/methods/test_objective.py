import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.methods import build, resolve
from mfkd.methods.base import Method, MethodConfig
from mfkd.methods.kd import KDConfig
from mfkd.methods.objective import Objective
from mfkd.types import Knowledge, Needs


class Constant(Method):
    """Gives fixed terms."""

    def __init__(self, terms, weight=1.0, warmup=0.0, fade=None, needs=None):
        super().__init__()
        self.terms = {name: torch.tensor(value) for name, value in terms.items()}
        self.config = MethodConfig(weight=weight, warmup=warmup, fade=fade)
        self.needs = needs or Needs()

    def forward(self, student, teacher, batch):
        return self.terms


def test_loss_is_the_weighted_sum_and_terms_are_unweighted(make_inputs):
    student, _, batch = make_inputs()
    objective = Objective({"a": Constant({"x": 2.0, "y": 3.0}, weight=10), "b": Constant({"z": 5.0}, weight=0)}, ce=0.5)
    loss, terms = objective(student, Knowledge(), batch)
    ce = F.cross_entropy(student.logits, batch.label)
    assert list(terms) == ["ce", "x", "y", "z"]
    assert torch.allclose(terms["ce"], ce)
    assert torch.allclose(loss, 0.5 * ce + 50)


def test_warm_up_rises_linearly_and_methods_know_the_progress(make_inputs):
    student, _, batch = make_inputs()
    method = Constant({"x": 1.0}, weight=8, warmup=0.4)
    objective = Objective({"a": method}, ce=0.0)
    assert (method.progress, objective.weight("a")) == (1, 8)  # where nobody tells
    losses = []
    for progress in (0.0, 0.1, 0.4, 1.0):
        objective.set_progress(progress)
        assert method.progress == progress
        losses.append(objective(student, Knowledge(), batch)[0].item())
    assert losses == pytest.approx([0, 2, 8, 8])


def test_a_fading_weight_falls_linearly_and_stays_at_zero(make_inputs):
    student, _, batch = make_inputs()
    objective = Objective({"a": Constant({"x": 1.0}, weight=8, fade=0.5)}, ce=0.0)
    assert objective.weight("a") == 8  # where nobody tells
    losses = []
    for progress in (0.0, 0.125, 0.25, 0.5, 1.0):
        objective.set_progress(progress)
        losses.append(objective(student, Knowledge(), batch)[0].item())
    assert losses == pytest.approx([8, 6, 4, 0, 0])
    both = Objective({"a": Constant({"x": 1.0}, weight=8, warmup=0.5, fade=1.0)}, ce=0.0)
    both.set_progress(0.25)
    assert both.weight("a") == pytest.approx(8 * 0.5 * 0.75)


def test_a_weight_that_has_faded_out_has_no_term_and_asks_for_nothing(make_inputs):
    student, _, batch = make_inputs()
    fading = Constant({"x": 1.0}, weight=8, fade=0.5)
    fading.own = torch.nn.Parameter(torch.tensor(3.0))
    objective = Objective({"a": fading, "b": Constant({"y": 1.0}, fade=1.0)}, ce=0.0)
    found = []
    for progress in (0.49, 0.5, 1.0):
        objective.set_progress(progress)
        found.append(list(objective(student, Knowledge(), batch)[1]))
    assert found == [["ce", "x", "y"], ["ce", "y"], ["ce"]]
    assert objective.idle
    loss, _ = objective(student, None, batch)  # no knowledge is wanted
    loss.backward()
    assert (loss.item(), fading.own.grad) == (0, torch.tensor(0.0))  # which DDP waits for


def test_a_loop_that_tells_no_progress_is_told_that_the_weight_should_fade(make_inputs):
    student, _, batch = make_inputs()
    objective = Objective({"a": Constant({"x": 1.0}, fade=0.5), "b": Constant({"y": 1.0}, warmup=0.5)})
    objective.eval()(student, Knowledge(), batch)  # a look at the terms is no training
    text = (
        "the weight of a should fade, and nobody has told how far the run is: call "
        "distiller.set_progress(step / steps) before each step, or name the method in a mapping, without fade."
    )
    with pytest.warns(UserWarning, match=re.escape(text)):
        objective.train()(student, Knowledge(), batch)
    objective.set_progress(0.0)
    objective(student, Knowledge(), batch)
    Objective({"b": Constant({"y": 1.0}, warmup=0.5)})(student, Knowledge(), batch)


def test_labels_targets_and_smoothing_reach_the_cross_entropy(make_inputs):
    student, _, batch = make_inputs()
    objective = Objective({})
    some = replace(batch, label=torch.tensor([1, -1, -1, -1]))
    loss, terms = objective(student, None, some, 0.1)
    expected = F.cross_entropy(student.logits[:1], some.label[:1], label_smoothing=0.1) / 4
    assert torch.allclose(loss, expected)
    assert list(terms) == ["ce"]
    target = torch.full((4, 5), 0.2)
    mixed = objective(student, None, replace(batch, target=target))[0]
    assert torch.allclose(mixed, F.cross_entropy(student.logits, target))


def test_needs_are_merged_in_order():
    first = Constant({}, needs=Needs(student=("a", "b"), teacher=("t",), index=True))
    second = Constant({}, needs=Needs(student=("b", "c"), logits=True, labels=True))
    assert Objective({"x": first, "y": second}).needs == Needs(("a", "b", "c"), ("t",), True, True, True)
    assert Objective({}).needs == Needs()


def test_description_is_what_a_recipe_would_hold(make_context):
    chosen = {"ce": {"weight": 0.1}, "kd": {"weight": 0.9}}
    objective = build(resolve(chosen), make_context())
    described = objective.describe()
    assert described == {"ce": {"weight": 0.1}, "kd": KDConfig(weight=0.9).model_dump()}
    assert build(resolve(described), make_context()).describe() == described
    assert Objective({}).describe() == {}


@pytest.mark.parametrize(("given", "wanted"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_methods_are_fed_full_precision(make_inputs, given, wanted):
    seen = []

    class Spy(Constant):
        def forward(self, student, teacher, batch):
            tensors = [student.logits, *student.taps.values(), teacher.logits, *teacher.taps.values()]
            seen.extend({str(t.dtype).removeprefix("torch.") for t in tensors})
            seen.append(torch.is_autocast_enabled("cpu"))
            return self.terms

    student, teacher, batch = make_inputs(dtype=getattr(torch, given))
    spy = Spy({}, needs=Needs(student=tuple(student.taps)))
    with torch.autocast("cpu", torch.bfloat16):
        loss, terms = Objective({"spy": spy})(student, teacher, batch)
    assert seen == [wanted, False]
    assert str(loss.dtype) == str(terms["ce"].dtype) == f"torch.{wanted}"


def test_a_mixed_method_is_fed_the_maps_themselves_and_nobody_else_the_maps_it_did_not_ask_for(make_inputs):
    seen = {}

    class Spy(Constant):
        def forward(self, student, teacher, batch):
            seen[self.mixed] = student.taps
            return self.terms

    class Mixed(Spy):
        mixed = True

    student, teacher, batch = make_inputs(dtype=torch.bfloat16)
    first, *rest = student.taps
    assert rest
    one, every = Needs(student=(first,)), Needs(student=tuple(student.taps))
    spies = {"full": Spy({}, needs=one), "mixed": Mixed({}, needs=every)}
    Objective(spies)(student, teacher, batch)
    assert all(seen[True][name] is tap for name, tap in student.taps.items())
    assert {name: tap.dtype for name, tap in seen[False].items()} == {first: torch.float32}


def test_refusals(make_inputs):
    student, _, batch = make_inputs()
    with pytest.raises(TrainingError, match="a, b need the teacher's knowledge, got none"):
        Objective({"a": Constant({}), "b": Constant({})})(student, None, batch)
    with pytest.raises(ConfigError, match="b names a term 'x', and so does another part; rename one"):
        Objective({"a": Constant({"x": 1.0}), "b": Constant({"x": 1.0})})(student, Knowledge(), batch)
    with pytest.raises(ShapeError, match=r"term 'x' of a must be a scalar, got \(2,\)"):
        Objective({"a": Constant({"x": [1.0, 2.0]})})(student, Knowledge(), batch)
    with pytest.raises(TypeError, match=r"Method must define forward\(student, teacher, batch\)"):
        Method()(student, Knowledge(), batch)
