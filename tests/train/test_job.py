"""What makes a training another one: the files behind its networks, beside its settings."""

import pytest

from mfkd.config import load_config
from mfkd.models.weights import save_weights
from mfkd.train.job import Job

KINDS = ("teacher", "alone", "distilled")


@pytest.fixture
def hashes(tmp_path, monkeypatch):
    """Hashes of the three kinds for a recipe, made anew each time."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        config = load_config(None, words)
        return {kind: Job(kind, tmp_path, config, config.train, 0).hash for kind in KINDS}

    return call


def changed(before, after):
    return {kind for kind in KINDS if before[kind] != after[kind]}


@pytest.mark.parametrize(
    ("role", "kinds"), [("student", {"alone", "distilled"}), ("teacher", {"teacher", "distilled"})]
)
def test_a_changed_file_of_a_network_is_a_changed_run(hashes, tmp_path, role, kinds):
    path = tmp_path / "net.py"
    for name in (f"{path}:build", "net:build"):
        path.write_text("a = 1")
        before = hashes(f"{role}.model={name}")
        assert hashes(f"{role}.model={name}") == before
        path.write_text("a = 2")
        assert changed(before, hashes(f"{role}.model={name}")) == kinds


def test_a_changed_folder_of_timm_is_a_changed_run(hashes, tmp_path):
    folder = tmp_path / "saved"
    save_weights(folder / "model.safetensors", {})
    before = hashes("student.model=local-dir:saved")
    (folder / "config.json").write_text("{}")
    assert changed(before, hashes("student.model=local-dir:saved")) == {"alone", "distilled"}


def test_changed_weights_to_start_from_are_a_changed_run(hashes, tmp_path):
    (tmp_path / "start.pth").write_text("1")
    before = hashes("student.weights=start.pth")
    (tmp_path / "start.pth").write_text("2")
    assert changed(before, hashes("student.weights=start.pth")) == {"alone", "distilled"}


def test_networks_without_files_add_nothing(tmp_path):
    config = load_config(None, ["student.model=resnet8"])
    assert Job("distilled", tmp_path, config, config.train, 0).files_sha256 == []
