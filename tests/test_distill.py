import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mfkd import Distiller, build_model
from mfkd.errors import ConfigError, ShapeError, TrainingError, UnknownNameError
from mfkd.methods.base import Context, Method, Preparation
from mfkd.methods.kd import KD, KDConfig
from mfkd.nn.once import Once
from mfkd.types import Batch, Needs

SHAPE, CLASSES = (3, 16, 16), 5


def pair(classes=CLASSES):
    return build_model("resnet14", num_classes=classes), build_model("resnet8", num_classes=CLASSES)


def batch(size=8):
    return torch.randn(size, *SHAPE), torch.arange(size) % CLASSES


def loader(count=3):
    return [batch() for _ in range(count)]


def test_the_ten_lines_of_the_readme():
    loader = DataLoader(TensorDataset(*batch(24)), batch_size=8)
    teacher = build_model("resnet14", num_classes=5)
    student = build_model("resnet8", num_classes=5)
    distiller = Distiller(teacher, student, method="mfkd", input_shape=(3, 16, 16))
    distiller.prepare(loader)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.05, momentum=0.9)
    losses, terms = [], []
    for epoch in range(4):
        for number, (images, labels) in enumerate(loader):
            distiller.set_progress((epoch * len(loader) + number) / (4 * len(loader)))
            out = distiller(images, labels)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            losses.append((out.terms["ce"] + out.terms["kd"]).item())
            terms.append(list(out.terms))
    assert terms == [["ce", "mfkd", "kd"]] * 6 + [["ce", "kd"]] * 6
    assert not any(term.requires_grad for term in out.terms.values())
    assert out.logits.shape == (8, 5)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_loss_is_the_weighted_sum_by_hand():
    teacher, student = pair()
    distiller = Distiller(
        teacher, student, {"kd": {"weight": 0.5, "temperature": 2.0}, "ce": {"weight": 0.25}}, input_shape=SHAPE
    ).eval()
    images, labels = batch()
    out = distiller(images, labels)
    own, other = student(images), teacher(images)
    kd = 4 * F.kl_div(F.log_softmax(own / 2, 1), F.log_softmax(other / 2, 1), reduction="batchmean", log_target=True)
    ce = F.cross_entropy(own, labels)
    torch.testing.assert_close(out.loss, 0.25 * ce + 0.5 * kd)
    torch.testing.assert_close(out.terms, {"ce": ce.detach(), "kd": kd.detach()})
    assert torch.equal(out.logits, own)


def test_without_a_method_it_is_plain_training():
    _, student = pair()
    distiller = Distiller(None, student, "none", input_shape=SHAPE, label_smoothing=0.1).eval()
    images, labels = batch()
    out = distiller(images, labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(student(images), labels, label_smoothing=0.1))
    assert list(out.terms) == ["ce"]
    assert {id(p) for p in distiller.trainable_parameters()} == {id(p) for p in student.parameters()}


def test_images_without_labels_have_no_cross_entropy():
    distiller = Distiller(*pair(), "kd", input_shape=SHAPE).eval()
    images, labels = batch()
    out = distiller(images)
    assert out.terms["ce"] == 0
    assert out.loss == out.terms["kd"]
    half = distiller(images, torch.where(torch.arange(8) < 4, labels, -1))
    torch.testing.assert_close(half.terms["ce"], F.cross_entropy(half.logits[:4], labels[:4]) / 2)


class Norm(Method):
    """The squared logits, to be small."""

    def __init__(self):
        super().__init__()
        self.needs = Needs(index=True)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, student, teacher, batch):
        self.index = batch.index
        return {"norm": self.factor * student.logits.square().mean()}


def test_a_method_of_ones_own():
    method = Norm()
    distiller = Distiller(*pair(), method, input_shape=SHAPE)
    images, labels = batch()
    out = distiller(images, labels, torch.arange(8) + 3)
    torch.testing.assert_close(out.terms["norm"], out.logits.square().mean())
    assert method.index.tolist() == list(range(3, 11))
    assert any(p is method.factor for p in distiller.trainable_parameters())
    with pytest.raises(ConfigError) as caught:
        distiller(images, labels)
    assert str(caught.value) == "this method remembers samples: call distiller(images, labels, index) with their rows."


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("mfdk", "unknown method 'mfdk'; did you mean mfkd"),
        ({"kd": {"temprature": 2}}, "unknown key 'method.kd.temprature'; did you mean method.kd.temperature"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(method, text):
    with pytest.raises(UnknownNameError) as caught:
        Distiller(*pair(), method, input_shape=SHAPE)
    assert str(caught.value).startswith(text)


def test_a_bad_value_is_refused():
    with pytest.raises(ConfigError, match=r"method.kd.temperature: got 0, expected more than 0"):
        Distiller(*pair(), {"kd": {"temperature": 0}}, input_shape=SHAPE)


def test_forgetting_to_prepare_is_told():
    distiller = Distiller(*pair(), input_shape=SHAPE)
    with pytest.raises(TrainingError) as caught:
        distiller(*batch())
    assert str(caught.value) == (
        "the teacher's fusion is not calibrated; call distiller.prepare(loader) once before training."
    )


@pytest.mark.parametrize("form", ["list", "batches", "DataLoader", "iterator", "rows", "images"])
def test_prepare_takes_every_form_of_loader(form):
    distiller = Distiller(*pair(), input_shape=SHAPE)
    items = loader()
    forms = {
        "list": items,
        "batches": [Batch(*item, torch.arange(8)) for item in items],
        "DataLoader": DataLoader(TensorDataset(*map(torch.cat, zip(*items, strict=True))), 8),
        "iterator": iter(items),
        "rows": [(*item, torch.arange(8)) for item in items],
        "images": [images if number % 2 else (images, None) for number, (images, _) in enumerate(items)],
    }
    steps = []
    distiller.prepare(forms[form], on_step=lambda *step: steps.append(step))
    assert steps == [("mfkd", done, 3) for done in (1, 2, 3)]
    torch.manual_seed(1)
    other = Distiller(*pair(), input_shape=SHAPE)
    other.load_state_dict(distiller.state_dict())
    distiller.prepare(iter([]))  # done already
    other.prepare(iter([]))


def test_an_iterator_cannot_be_walked_twice():
    distiller = Distiller(*pair(), {"mfkd": {"kind": "attention", "calibration_epochs": 2}}, input_shape=SHAPE)
    with pytest.raises(ConfigError) as caught:
        distiller.prepare(item for item in loader())
    assert str(caught.value) == (
        "prepare got a loader that yields no batch (2 passes wanted); "
        "give a list or DataLoader, not a used-up iterator."
    )


def test_prepare_moves_the_fusion_and_then_freezes_it():
    teacher, student = pair()
    distiller = Distiller(teacher, student, input_shape=SHAPE)
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    distiller.prepare(loader())
    after = distiller.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert all("teacher_side" in name for name in moved)
    names = {name for name, p in distiller.named_parameters() if p.requires_grad}
    assert {id(p) for p in distiller.trainable_parameters()} == {
        id(p) for name, p in distiller.named_parameters() if name in names
    }
    assert not any("teacher_side" in name for name in names)
    assert any("student_side" in name for name in names)
    assert any(name.startswith("student.") for name in names)


def test_the_teacher_is_no_part_of_state_or_parameters_but_moves_along():
    teacher, student = pair()
    distiller = Distiller(teacher, student, "kd", input_shape=SHAPE)
    assert {name.split(".")[0] for name in distiller.state_dict()} == {"student"}
    assert not {id(p) for p in distiller.parameters()} & {id(p) for p in teacher.parameters()}
    assert distiller.double() is distiller
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}
    images, labels = batch()
    assert distiller(images.double(), labels).loss.dtype == torch.float64
    assert distiller.to(torch.float32)(images, labels).loss.dtype == torch.float32
    distiller.train()
    assert not any(part.training for part in teacher.modules())


def test_a_teacher_with_another_head_loses_the_logit_part_of_the_preset():
    distiller = Distiller(*pair(classes=7), input_shape=SHAPE)
    assert distiller.notes == [
        "kd is off: the teacher's head has other classes than the student; teacher.head=tune fits a new one."
    ]
    distiller.prepare(loader())
    distiller.set_progress(0.0)
    assert list(distiller(*batch()).terms) == ["ce", "mfkd"]


@pytest.mark.parametrize("method", ["kd", {"mfkd": {}, "kd": {}}])
def test_a_teacher_with_another_head_is_refused_by_kd(method):
    with pytest.raises(ConfigError) as caught:
        Distiller(*pair(classes=7), method, input_shape=SHAPE)
    assert str(caught.value) == (
        "kd needs a teacher with the student's classes, but this teacher's head has others; "
        "fit a new one with teacher.head=tune, or leave kd out."
    )


def test_refusals():
    teacher, student = pair()
    with pytest.raises(ConfigError) as caught:
        Distiller(student, student, input_shape=SHAPE)
    assert str(caught.value) == "teacher and student are the same object; build two networks."
    with pytest.raises(ConfigError) as caught:
        Distiller(None, student, input_shape=SHAPE)
    assert str(caught.value) == ("method mfkd, kd needs a teacher, got None; use method='none' for plain training.")
    images, labels = batch()
    with pytest.raises(ShapeError) as caught:
        Distiller(teacher, student, "kd", input_shape=SHAPE)(images, labels[:3])
    assert str(caught.value) == "distiller got 8 images and 3 labels; give one label an image (-1: none)."


def test_the_seed_is_of_the_methods_own_weights_and_draws_nothing():
    states = []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        teacher, student = pair()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        distiller = Distiller(teacher, student, input_shape=SHAPE, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(distiller.objective.state_dict()["methods.mfkd.student_side.levels.0.conv.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_progress_reaches_the_methods():
    distiller = Distiller(*pair(), {"kd": {"warmup": 0.5, "weight": 2.0}}, input_shape=SHAPE).eval()
    images, labels = batch()
    out = distiller(images, labels)  # a loop that tells no progress has no warm-up, and not one that never ends
    torch.testing.assert_close(out.loss.detach(), out.terms["ce"] + 2.0 * out.terms["kd"])
    for progress, weight in ((0.0, 0.0), (0.25, 1.0), (0.75, 2.0)):
        distiller.set_progress(progress)
        out = distiller(images, labels)
        torch.testing.assert_close(out.loss.detach(), out.terms["ce"] + weight * out.terms["kd"])


@pytest.mark.parametrize("label", [4, -2, -100])
def test_a_label_beyond_the_students_classes_is_refused(label):
    distiller = Distiller(None, build_model("resnet8", num_classes=4), "none")
    with pytest.raises(ShapeError) as refusal:
        distiller(torch.zeros(2, 3, 32, 32), torch.tensor([3, label]))
    assert str(refusal.value) == (
        f"distiller got label {label}, the student has 4 classes; "
        "number the labels from 0 (-1: none), or build the student with more classes."
    )


class Beyond(Method):
    needs_teacher = False

    def forward(self, student, teacher, batch):
        return {"beyond": student.logits[len(student.logits)].sum()}


def test_a_fault_of_a_method_is_not_put_on_the_labels():
    distiller = Distiller(None, build_model("resnet8", num_classes=4), Beyond())
    with pytest.raises(IndexError, match="out of bounds"):
        distiller(torch.zeros(2, 3, 32, 32), torch.tensor([1, 3]))


def test_a_loader_of_something_else_is_refused():
    with pytest.raises(ConfigError) as refusal:
        Distiller(*pair(), input_shape=SHAPE).prepare([{"image": torch.zeros(2, *SHAPE)}])
    assert str(refusal.value) == (
        "prepare got a loader that yields dict, expected (images, labels); give a list or DataLoader of pairs."
    )


def test_rows_that_a_method_remembers_may_lie_in_the_loader_of_prepare():
    distiller = Distiller(
        *pair(), {"mfkd": {}, "crd": {}}, input_shape=SHAPE, num_samples=24, labels=torch.arange(24) % 5
    )
    items = [(*item, torch.arange(8)) for item in loader()]
    distiller.prepare(items)
    assert list(distiller(*items[0]).terms) == ["ce", "mfkd", "crd"]


@pytest.mark.parametrize("method", ["mfkd", "fitnet", "kd"])
def test_what_methods_bring_has_the_precision_of_the_networks(method):
    distiller = Distiller(*(network.double() for network in pair()), method, input_shape=SHAPE)
    items = [(images.double(), labels) for images, labels in loader()]
    distiller.prepare(items)
    distiller.set_progress(0.0)
    loss = distiller(*items[0]).loss
    loss.backward()
    assert loss.dtype == torch.float64
    assert {parameter.dtype for parameter in distiller.parameters()} == {torch.float64}


def test_several_teachers_are_averaged_at_the_temperature_of_a_built_method():
    first, second = pair()
    context = Context({}, {}, 5)
    found = []
    for method in ({"kd": {"temperature": 1.0}}, KD(KDConfig(temperature=1.0), context)):
        torch.manual_seed(3)
        student = build_model("resnet8", num_classes=5)
        distiller = Distiller([first, second], student.eval(), method, input_shape=SHAPE)
        found.append(distiller(*batch()).terms["kd"].item())
    assert found[0] == found[1]


def test_soft_targets_need_no_feature_map():
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    distiller = Distiller(build_model("resnet8", num_classes=4), student, "kd", input_shape=(3, 8, 8))
    assert set(distiller(torch.randn(2, 3, 8, 8), torch.tensor([1, 2])).terms) == {"ce", "kd"}
    with pytest.raises(ShapeError, match="no feature map"):
        Distiller(build_model("resnet8", num_classes=4), student, "mfkd", input_shape=(3, 8, 8))


class Initial(Method):
    """Trains the student in a stage before, and adds nothing later."""

    needs = Needs(student=("bottom",), teacher=("bottom",))

    def __init__(self, epochs):
        super().__init__()
        self.epochs, self.seen, self.stage = epochs, [], Once()

    @property
    def idle(self):
        return self.stage.ready

    def forward(self, student, teacher, batch):
        return {}

    def preparation(self):
        return None if self.stage.ready else Preparation(self.epochs, self.step, self.stage.finish, trains_student=True)

    def step(self, student, teacher, batch):
        self.seen.append((student.taps["bottom"].requires_grad, tuple(teacher.taps)))
        return student.taps["bottom"].square().mean()


def initial(epochs, of):
    torch.manual_seed(0)
    networks = build_model("resnet8", num_classes=5), build_model("resnet8", num_classes=5)
    return Distiller(*networks, Initial(epochs), input_shape=(3, 16, 16), epochs=of)


def test_a_stage_that_trains_the_student_takes_epochs_of_the_run():
    distiller = initial(2, of=3)
    batch = torch.randn(4, 3, 16, 16), torch.arange(4)
    before = {name: p.clone() for name, p in distiller.student.named_parameters()}
    assert distiller.prepare([batch, batch]) == 2
    (method,) = (method for _, method in distiller.objective.named())
    assert method.seen == [(True, ("bottom",))] * 4
    moved = {name for name, p in distiller.student.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if not name.startswith("fc.")}  # the backbone, not the head
    assert distiller.prepare([batch]) == 0


def test_the_teacher_rests_once_no_method_adds_a_term(monkeypatch):
    distiller = initial(1, of=3)
    batch = torch.randn(4, 3, 16, 16), torch.arange(4)
    distiller.prepare([batch])
    monkeypatch.setattr(distiller.teacher, "forward", lambda *_: pytest.fail("asked the teacher"))
    assert set(distiller(*batch).terms) == {"ce"}


def test_a_stage_must_leave_epochs_to_train():
    distiller = initial(3, of=3)
    with pytest.raises(ConfigError) as caught:
        distiller.prepare([(torch.randn(4, 3, 16, 16), torch.arange(4))])
    assert str(caught.value) == (
        "initial prepares the student for 3 of 3 epochs, which leaves none to train; give the run more epochs."
    )


def test_a_method_may_hand_over_another_network():
    class Replaced(Initial):
        def deployed(self, student):
            return torch.nn.Sequential(student)

    networks = build_model("resnet8", num_classes=5), build_model("resnet8", num_classes=5)
    distiller = Distiller(*networks, Replaced(1), input_shape=(3, 16, 16))
    assert distiller.deployed()[0] is distiller.student
    other = build_model("resnet8", num_classes=5)
    assert distiller.deployed(other)[0] is other
    assert initial(1, of=3).deployed().conv1.weight.shape[0] == 16
