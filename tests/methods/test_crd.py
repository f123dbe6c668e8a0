from math import exp, log

import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from mfkd.distill import Distiller
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.crd import CRD, CRDConfig, contrast, crd_loss
from mfkd.models import build_model
from mfkd.types import Batch, Knowledge, Outputs

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


@pytest.fixture
def make(make_context):
    def build(labels=LABELS, **options):
        return CRD(CRDConfig(**options), make_context(num_samples=len(labels), labels=labels))

    return build


def reference(scores, log_z):
    """The published form: P / (P + K / N), with N images and the constant Z = N times the mean exponential."""
    images, negatives, total = 1000, scores.shape[1] - 1, 0.0
    noise = negatives / images
    for row in scores.tolist():
        own, *others = (exp(score) / (exp(log_z) * images) for score in row)
        total -= log(own / (own + noise)) + sum(log(noise / (other + noise)) for other in others)
    return total / len(scores)


def test_value_by_hand():
    # One negative and z = 1: odds are the exponential scores. -log(3 / 4) - log(1 / 3).
    scores = torch.tensor([[log(3.0), log(2.0)]])
    assert crd_loss(scores, 0.0).item() == pytest.approx(log(4 / 3) + log(3), rel=1e-6)
    # Twice the z halves the odds: -log(3 / 5) - log(1 / 2).
    assert crd_loss(scores, log(2.0)).item() == pytest.approx(log(5 / 3) + log(2), rel=1e-6)


@pytest.mark.parametrize("log_z", [0.0, 1.3])
def test_equals_the_published_form(log_z):
    scores = 3 * torch.randn(4, 6, dtype=torch.float64)
    assert crd_loss(scores, log_z).item() == pytest.approx(reference(scores, log_z), rel=1e-12)


def test_images_without_a_label_add_nothing():
    scores = torch.randn(4, 3)
    labelled = torch.tensor([True, False, True, False])
    assert torch.allclose(crd_loss(scores, 0.5, labelled), crd_loss(scores[labelled], 0.5) / 2)


def test_gradients():
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: crd_loss(x, 0.7), (scores,))
    anchors, memory = torch.randn(3, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    rows = torch.randint(5, (3, 4))
    assert torch.autograd.gradcheck(lambda x: contrast(x, memory, rows, 0.5), (anchors.requires_grad_(),))


def test_scores_are_products_with_the_rows_that_were_drawn():
    anchors, memory, rows = torch.randn(2, 3), torch.randn(5, 3), torch.tensor([[4, 0, 0], [1, 2, 3]])
    expected = [[(anchors[i] @ memory[row]).item() / 0.07 for row in rows[i].tolist()] for i in range(2)]
    assert torch.allclose(contrast(anchors, memory, rows), torch.tensor(expected))


def test_the_class_compares_crosswise_and_then_remembers(make, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = make(width=6, negatives=3)
    memory = method.memory.student.clone(), method.memory.teacher.clone()
    torch.manual_seed(5)
    terms = method(student, teacher, batch)
    torch.manual_seed(5)
    rows, _ = method.memory.draw(batch.index)
    own = normalize(method.student_side(student.taps["penultimate"]), dim=1)
    given = normalize(method.teacher_side(teacher.taps["penultimate"]), dim=1)
    scores = contrast(own, memory[1], rows), contrast(given, memory[0], rows)
    log_z = [side.exp().mean().log() for side in scores]
    assert torch.allclose(terms["crd"], sum(map(crd_loss, scores, log_z)), rtol=1e-5)
    assert torch.allclose(method.memory.student[:4], normalize(memory[0][:4] + own, dim=1), atol=1e-6)
    assert torch.allclose(method.memory.teacher[:4], normalize(memory[1][:4] + given, dim=1), atol=1e-6)
    assert torch.equal(method.memory.student[4:], memory[0][4:])
    terms["crd"].backward()  # the memory has changed since
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.parameters())
    assert method.needs.index


def test_evaluation_remembers_nothing(make, make_inputs):
    method = make().eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert method(*make_inputs(stages=True))["crd"].isfinite()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_a_batch_without_labels_gives_zero_with_gradients(make, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method = make(torch.tensor([-1, -1, -1, -1, 0, 1]))
    loss = method(student, teacher, batch)["crd"]
    assert loss == 0
    loss.backward()
    assert all(parameter.grad.abs().sum() == 0 for parameter in method.parameters())


def test_a_resumed_method_goes_on_exactly(make, make_inputs):
    student, teacher, batch = make_inputs(stages=True)
    method, resumed = make(), make()
    method(student, teacher, batch)
    resumed.load_state_dict(method.state_dict())
    later = Batch(batch.image, batch.label, batch.index + 2)
    found = []
    for it in (method, resumed):
        torch.manual_seed(1)
        found.append(it(student, teacher, later)["crd"])
    assert found[0] == found[1]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in method.state_dict().items())


def test_ddp_sends_all_buffers_but_the_memory():
    distiller = Distiller(
        build_model("resnet14", num_classes=3),
        build_model("resnet8", num_classes=3),
        "crd",
        input_shape=(3, 16, 16),
        num_samples=len(LABELS),
        labels=LABELS,
    )
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        sent = {id(buffer) for buffer in DistributedDataParallel(distiller).modules_buffers}
    finally:
        distributed.destroy_process_group()
    kept = {name for name, buffer in distiller.named_buffers() if id(buffer) not in sent}
    assert kept == {name for name, _ in distiller.named_buffers() if ".memory." in name}
    assert {"objective.methods.crd.memory.student", "objective.methods.crd.memory.teacher"} < kept
    assert sent


def test_it_learns_to_agree_on_a_generated_set(make_context):
    # The student's vectors are a fixed mixture of the teacher's: own pairs can be told from others.
    labels = torch.arange(40) % 4
    it = CRD(CRDConfig(width=8), make_context(num_samples=40, labels=labels))
    teacher = torch.randn(40, 8)
    mixture = nn.Linear(8, 4).requires_grad_(False)
    optimizer = torch.optim.SGD(it.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(60):
        rows = torch.randperm(40)[:20]
        student = Outputs(torch.zeros(20, 4), {"penultimate": mixture(teacher[rows])})
        batch = Batch(torch.zeros(20, 3, 1, 1), labels[rows], rows)
        loss = it(student, Knowledge(None, {"penultimate": teacher[rows]}), batch)["crd"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_defaults_are_the_published_ones():
    config = CRDConfig()
    assert (config.weight, config.width, config.negatives) == (0.8, 128, 16384)
    assert (config.temperature, config.momentum) == (0.07, 0.5)


@pytest.mark.parametrize("changes", [{}, {"num_samples": 8}, {"labels": LABELS}])
def test_missing_labels_are_refused(make_context, changes):
    got = rf"{len(changes['labels'])} labels" if "labels" in changes else "no labels"
    text = rf"crd remembers every image and its class, got {got} for {changes.get('num_samples', 0)} images; give Dist"
    with pytest.raises(ConfigError, match=text):
        CRD(CRDConfig(), make_context(**changes))


def test_refusals(make, make_inputs):
    with pytest.raises(ShapeError, match=r"crd_loss needs scores \(B, 1 \+ K\) with 1 or more negatives, got \(2, 1\)"):
        crd_loss(torch.zeros(2, 1), 0.0)
    with pytest.raises(ConfigError, match=r"2 or more classes, got 1 among 3 labels"):
        make(torch.zeros(3, dtype=torch.int64))
    student, teacher, batch = make_inputs(stages=True)
    with pytest.raises(ShapeError, match=r"row 11 is beyond the 8"):
        make()(student, teacher, Batch(batch.image, batch.label, batch.index + 8))
