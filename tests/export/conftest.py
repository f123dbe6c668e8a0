"""Networks in files, as a training leaves them, without the training."""

from types import SimpleNamespace

import pytest
import torch
import yaml

from mfkd.config import load_config
from mfkd.data import load_data
from mfkd.models import build_model
from mfkd.train.student import Card, save_student


def settle(network, shape):
    """Move the statistics of BatchNorm, and every other parameter, away from where they start."""
    network.train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for _ in range(3):
            network(torch.randn(16, *shape))
    return network.eval()


def put(folder, network, model, side=8, options=None):
    """A run folder of the digits with this network as its student; gives network and card."""
    config = load_config(None, [f"data.resize={side}", f"student.model={model}", f"out={folder}"])
    data = load_data(config.data)
    card = Card(model, data.classes, 1, data.size, data.mean, data.std, options or {})
    save_student(folder / "student.safetensors", network, card)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"name": "digits", "resize": side}}))
    return SimpleNamespace(folder=folder, network=network, card=card, data=data)


@pytest.fixture
def kit():
    """The functions above, as tests import nothing from here."""
    return SimpleNamespace(put=put, settle=settle)


@pytest.fixture
def made(tmp_path):
    """Build a network of some name and put it into a run folder."""

    def make(model, side=8, **options):
        network = settle(build_model(model, num_classes=10, in_channels=1, **options), (1, side, side))
        return put(tmp_path / "run", network, model, side, options)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder with a student that has learnt the digits in a second."""
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=10, in_channels=1)
    run = put(tmp_path_factory.mktemp("trained"), network, "resnet8")
    split, optimizer = run.data.train, torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(4):
        for positions in torch.randperm(len(split)).split(64):
            images = (split.images[positions] / 255 - run.card.mean[0]) / run.card.std[0]
            loss = torch.nn.functional.cross_entropy(network(images), split.labels[positions])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return put(run.folder, network.eval(), "resnet8")


@pytest.fixture
def mfkd():
    """Call the command line; gives typer's result."""
    from typer.testing import CliRunner

    from mfkd.cli import app

    return lambda *words: CliRunner().invoke(app, list(map(str, words)))
