import pytest
import torch
from torch import nn

from mfkd.config import DataConfig
from mfkd.data import load_data
from mfkd.errors import CheckpointError, ShapeError
from mfkd.models import build_model
from mfkd.models.weights import save_weights
from mfkd.teacher import FrozenTeacher
from mfkd.teacher import tune as module
from mfkd.teacher.tune import tune_head
from mfkd.train.session import measure  # tests may look upwards


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig(fraction=0.3))


@pytest.fixture
def teacher():
    return FrozenTeacher(build_model("resnet8", num_classes=6, in_channels=1))


def accuracy(teacher, digits):
    from mfkd.config import RunConfig
    from mfkd.train.job import Job

    config = RunConfig()
    return measure(teacher, digits, Job("teacher", None, config, config.train, 0), logits=teacher.logits)["top1"]


def test_a_new_head_fits_the_data_and_is_read_back_the_second_time(digits, teacher, tmp_path, monkeypatch):
    backbone = {name: value.clone() for name, value in teacher.state_dict().items() if "network.fc" not in name}
    path = tmp_path / "teacher" / "head.safetensors"
    tune_head(teacher, digits, DataConfig(fraction=0.3), path)
    assert accuracy(teacher, digits) > 75  # a random backbone, and chance is 10
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in backbone.items())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.count_classes((1, 8, 8)) == 10
    monkeypatch.setattr(module, "_fit", lambda *_: pytest.fail("fitted again"))
    second = FrozenTeacher(build_model("resnet8", num_classes=6, in_channels=1))
    with pytest.raises(CheckpointError, match=rf"^{path} does not fit this teacher and data; delete it"):
        tune_head(second, digits, DataConfig(fraction=0.3), path)  # of another backbone, so its features mean nothing
    second.load_state_dict({**second.state_dict(), **backbone})
    tune_head(second, digits, DataConfig(fraction=0.3), path)
    assert torch.equal(second.network.fc.weight, teacher.network.fc.weight)
    assert torch.equal(second.network.fc.bias, teacher.network.fc.bias)


def test_the_fit_gives_scikit_learns_own_probabilities():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    drawn = torch.Generator().manual_seed(0)
    for classes in (2, 3):
        features = (torch.randn(60, 4, generator=drawn) * torch.tensor([1.0, 5, 0.1, 1]) + 2).double().numpy()
        labels = torch.randint(0, classes, (60,), generator=drawn).numpy()
        state = module._fit(features, labels, classes)
        found = (torch.from_numpy(features).float() @ state["weight"].T + state["bias"]).softmax(1)
        scaled = StandardScaler().fit_transform(features)
        expected = LogisticRegression(max_iter=500, tol=1e-3).fit(scaled, labels).predict_proba(scaled)
        torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_a_class_without_images_is_never_chosen():
    features, labels = torch.randn(30, 3).double().numpy(), (torch.arange(30) % 2 * 2).numpy()
    state = module._fit(features, labels, 3)
    scores = torch.from_numpy(features).float() @ state["weight"].T + state["bias"]
    assert set(scores.argmax(1).tolist()) <= {0, 2}


def test_refusals(digits, teacher, tmp_path):
    path = tmp_path / "head.safetensors"
    save_weights(path, {"weight": torch.zeros(3, 64), "bias": torch.zeros(3)}, {})
    with pytest.raises(CheckpointError) as caught:
        tune_head(teacher, digits, DataConfig(), path)
    assert str(caught.value) == f"{path} does not fit this teacher and data; delete it to fit the classifier anew."
    headless = FrozenTeacher(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten()))
    with pytest.raises(ShapeError) as caught:
        tune_head(headless, digits, DataConfig(), path)
    assert str(caught.value) == (
        "teacher.head=tune needs a teacher that ends in a linear layer, none was found; leave teacher.head=keep."
    )
