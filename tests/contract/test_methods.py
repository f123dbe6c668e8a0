"""What every registered method must keep to, with its default options and every kind of fusion."""

from dataclasses import dataclass

import pytest
import torch

from mfkd.methods import METHODS, build, resolve
from mfkd.methods.base import Context
from mfkd.models import build_model
from mfkd.taps import find_taps, read
from mfkd.taps.head import classifier
from mfkd.taps.norms import batchnorm_before
from mfkd.teacher import FrozenTeacher, LiveSource
from mfkd.types import Batch

SHAPE, CLASSES, ROWS = (3, 16, 16), 5, 6
CASES = [
    *({name: {}} for name in METHODS),
    *({"mfkd": {"kind": kind}} for kind in ("attention", "concat", "topdown")),
    {"mfkd": {"kind": "attention", "head_weight": 0.5, "distance": "mse"}},
    {"mfkd": {"kind": "attention", "calibration": "joint"}},
    {name: {} for name in METHODS},
]


@dataclass
class Pair:
    """A student, its frozen teacher and one batch of images."""

    student: torch.nn.Module
    teacher: FrozenTeacher
    context: Context
    batch: Batch

    def objective(self, case):
        objective = build(resolve(case), self.context).train()
        objective.set_progress(0.5)  # past every warm-up and curriculum
        return objective, LiveSource(self.teacher, self.context.teacher, objective)

    def step(self, objective, source):
        specs = [self.context.student[name] for name in objective.needs.student]
        knowledge = source.knowledge(self.batch)
        torch.manual_seed(2)  # as the trainer does at each step, for masks and negatives
        return objective(read(self.student, self.batch.image, specs), knowledge, self.batch)

    def prepare(self, objective, source):
        for _, method in objective.named():
            stage = method.preparation()
            if stage is None:
                continue
            parameters = [*stage.parameters, *(self.student.parameters() if stage.trains_student else ())]
            optimizer = (
                torch.optim.SGD(parameters, lr=1e-3 if stage.trains_student else stage.lr) if parameters else None
            )
            specs = [self.context.student[name] for name in method.needs.student]
            outputs = read(self.student, self.batch.image, specs) if stage.trains_student else None
            loss = stage.step(outputs, source.raw(self.batch), self.batch)
            if optimizer is not None:
                loss.backward()
                optimizer.step()
            stage.finish()


def pair(dtype=torch.float32, seed=0):
    torch.manual_seed(1)
    student = build_model("resnet8", num_classes=CLASSES).to(dtype)
    teacher = build_model("resnet14", num_classes=CLASSES).to(dtype)
    batch = Batch(torch.randn(ROWS, *SHAPE, dtype=dtype), torch.arange(ROWS) % CLASSES, torch.arange(ROWS))
    frozen = FrozenTeacher(teacher)
    taps = find_taps(student, SHAPE), find_taps(teacher, SHAPE)
    context = Context(
        *taps,
        CLASSES,
        num_samples=ROWS,
        labels=batch.label,
        teacher_classifier=lambda: classifier(teacher, taps[1]),
        student_classifier=lambda: classifier(student, taps[0]),
        teacher_norm=lambda name: batchnorm_before(teacher, SHAPE, taps[1][name]),
        epochs=8,
        seed=seed,
    )
    return Pair(student, frozen, context, batch)


cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
def test_every_trainable_parameter_gets_a_gradient(case):
    it = pair()
    objective, source = it.objective(case)
    it.prepare(objective, source)
    it.step(objective, source)[0].backward()
    for module in (objective, it.student):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
            else:
                assert parameter.grad is None, name


@cases
def test_the_teacher_and_what_was_prepared_do_not_move(case):
    it = pair()
    objective, source = it.objective(case)
    before = {name: value.clone() for name, value in it.teacher.state_dict().items()}
    it.prepare(objective, source)
    frozen = {name for name, p in objective.named_parameters() if not p.requires_grad}
    knowledge = source.knowledge(it.batch)
    parameters = [p for module in (objective, it.student) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(2):
        objective.train()
        it.teacher.train()
        optimizer.zero_grad()
        it.step(objective, source)[0].backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in it.teacher.state_dict().items())
    assert {name for name, p in objective.named_parameters() if not p.requires_grad} == frozen
    after = source.knowledge(it.batch)
    assert set(after.taps) == set(knowledge.taps)
    assert all(torch.equal(tap, knowledge.taps[name]) for name, tap in after.taps.items())
    assert not any(tap.requires_grad for tap in after.taps.values())


@cases
def test_a_state_dict_carries_everything(case):
    it, other = pair(), pair(seed=7)
    objective, source = it.objective(case)
    it.prepare(objective, source)
    restored, other_source = other.objective(case)
    restored.load_state_dict(objective.state_dict())
    other.student.load_state_dict(it.student.state_dict())  # a preparation may have trained it
    assert all(method.preparation() is None for _, method in restored.named())
    trainable = [{name for name, p in o.named_parameters() if p.requires_grad} for o in (objective, restored)]
    assert trainable[0] == trainable[1]
    assert it.step(objective, source)[0] == other.step(restored, other_source)[0]


@cases
def test_autocast_gives_finite_float32_terms(case):
    it = pair()
    objective, source = it.objective(case)
    with torch.autocast("cpu", torch.bfloat16):
        it.prepare(objective, source)
        loss, terms = it.step(objective, source)
    assert loss.dtype == torch.float32
    assert (len(terms) > 1) == any(not METHODS[name].only_prepares for name in case)
    for name, term in terms.items():
        assert term.dtype == torch.float32, name
        assert term.isfinite(), name
    loss.backward()
    assert all(p.grad.isfinite().all() for p in it.student.parameters())


@cases
def test_double_precision_goes_all_the_way(case):
    it = pair(torch.float64)
    objective, source = it.objective(case)
    objective.double()
    it.prepare(objective, source)
    loss, terms = it.step(objective, source)
    assert {value.dtype for value in (loss, *terms.values())} == {torch.float64}


@cases
def test_weights_come_from_the_contexts_seed_alone(case):
    states = []
    for noise in (0, 1):
        it = pair()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        states.append(it.objective(case)[0].state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("name", METHODS)
def test_config_round_trip_and_every_option_is_described(name):
    model = METHODS[name].Config
    config = model()
    assert model.model_validate(config.model_dump()) == config
    assert model.model_validate_json(config.model_dump_json()) == config
    assert resolve({name: config.model_dump(mode="json")}).configs[name] == config
    for option, field in model.model_fields.items():
        assert field.description, option


@pytest.mark.parametrize("name", METHODS)
def test_class_and_config_say_what_they_are(name):
    method, config = METHODS[name], METHODS[name].Config
    module = __import__(method.__module__, fromlist=["_"])
    assert method.__doc__
    assert config.__doc__
    for part in ("Paper:", "Deviates:", "Shapes:"):
        assert part in module.__doc__
