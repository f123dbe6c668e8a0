"""timm's own sources: folders that timm saved, and its hub without a network."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from mfkd.errors import CheckpointError, ConfigError, MfkdError
from mfkd.models import build_model


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A folder with config.json and model.safetensors of a network for 5 classes, and the network."""
    network = timm.create_model("resnet10t", num_classes=5, stem_width=8).eval()
    save_for_hf(network, tmp_path / "saved", model_config={"num_classes": 5}, safe_serialization=True)
    return tmp_path / "saved", network


@pytest.mark.parametrize("prefix", ["timm/local-dir:", "local-dir:"])
def test_a_folder_gives_network_classes_and_weights(prefix: str, saved: tuple[Path, nn.Module]) -> None:
    folder, source = saved
    loaded = build_model(f"{prefix}{folder}", num_classes=None, pretrained=True).eval()
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(image), source(image))
    assert loaded.pretrained_cfg["num_classes"] == 5


def test_the_home_folder_is_found(saved: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved[0].parent))
    assert build_model("local-dir:~/saved", num_classes=None).num_classes == 5


def test_without_pretrained_the_weights_are_random(saved: tuple[Path, nn.Module]) -> None:
    folder, source = saved
    assert not torch.equal(build_model(f"local-dir:{folder}", num_classes=5).fc.weight, source.fc.weight)


def test_another_number_of_classes_gets_a_new_head_and_is_told(saved: tuple[Path, nn.Module]) -> None:
    folder, source = saved
    loaded = build_model(f"local-dir:{folder}", num_classes=7, pretrained=True)
    assert torch.equal(loaded.conv1[0].weight, source.conv1[0].weight)
    assert (loaded.fc.out_features, loaded.pretrained_cfg["num_classes"]) == (7, 5)


def test_a_folder_that_holds_no_network_is_refused(saved: tuple[Path, nn.Module]) -> None:
    folder, _ = saved
    config, weights = folder / "config.json", folder / "model.safetensors"
    told = json.loads(config.read_text())

    def refused(pattern: str) -> None:
        with pytest.raises(CheckpointError) as caught:
            build_model(f"local-dir:{folder}", num_classes=5, pretrained=True)
        text = str(caught.value)
        assert text.startswith(f"timm/local-dir:{folder} cannot be read ({pattern}"), text
        assert text.endswith("); expected a folder with timm's config.json and its weights.")
        assert "\n" not in text

    config.write_text(json.dumps({**told, "model_args": {**told["model_args"], "stem_width": 16}}))
    refused("RuntimeError: Error(s) in loading state_dict for ResNet: size mismatch for conv1.0.weight")
    config.write_text(json.dumps({**told, "architecture": "resnt"}))
    refused("RuntimeError: Unknown model (resnt)")
    config.write_text("{")
    refused("JSONDecodeError: ")
    config.write_text(json.dumps(told))
    weights.write_bytes(b"no weights")
    refused("SafetensorError: ")
    weights.unlink()
    refused("RuntimeError: No suitable checkpoints found")
    config.unlink()
    refused("FileNotFoundError: Config file not found")


def test_an_option_that_the_network_of_a_folder_does_not_have(saved: tuple[Path, nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"local-dir:\S+ has no option 'foo'; accepted: .*block_args.*zero_init_last"):
        build_model(f"local-dir:{saved[0]}", num_classes=5, foo=1)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm/s3:owner/net", "ValueError: Unknown model source 's3'"),
        ("timm/hf-hub:a/b/c/d", "HFValidationError: Repo id must be in the form"),
        ("timm/resnet18.foo", "RuntimeError: Invalid pretrained tag (foo) for resnet18."),
        ("torchvision/vit_b_16", "AssertionError: Input shape indivisible by patch size!"),
    ],
)
def test_what_the_libraries_refuse_is_told_on_one_line(name: str, told: str) -> None:
    options = {"image_size": 33} if name.endswith("vit_b_16") else {"pretrained": True}
    with pytest.raises(ConfigError) as caught:
        build_model(name, num_classes=5, **options)
    assert str(caught.value).startswith(f"{name} cannot be built ({told}")
    assert str(caught.value).endswith("); correct its name or its options.")


def test_a_long_story_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("one\n two " + "x" * 500)

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(MfkdError) as caught:
        build_model("timm/resnet18")
    assert str(caught.value) == (
        f"timm/resnet18 cannot be built (RuntimeError: one two {'x' * 192}...); correct its name or its options."
    )


OFFLINE = """
from mfkd.errors import CheckpointError
from mfkd.models import build_model
for name in ("timm/hf_hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k", "timm/resnet18"):
    try:
        build_model(name, num_classes=10, pretrained=True)
    except CheckpointError as error:
        print(error)
"""


def test_the_hub_without_a_network(tmp_path: Path) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    reason = "cannot be fetched (LocalEntryNotFoundError); check the name and the connection"
    assert done.stdout.splitlines() == [
        f"pretrained weights of timm/hf_hub:timm/resnet18.a1_in1k {reason}, "
        "or name a folder that you have, local-dir:PATH.",
        f"pretrained weights of timm/hf-hub:timm/resnet18.a1_in1k {reason}, "
        "or name a folder that you have, local-dir:PATH.",
        f"pretrained weights of timm/resnet18 {reason}, or give a file as weights.",
    ]


def test_timm_stays_quiet_about_its_files(saved: tuple[Path, nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build_model(f"local-dir:{saved[0]}", num_classes=None, pretrained=True)
    assert caplog.records == []


def test_the_hub_says_nothing_of_its_attempts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def attempts(*_: object, **__: object) -> None:
        warn()
        raise ConnectionError

    def warn() -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s [Retry 5/5].")

    monkeypatch.setattr(timm, "create_model", attempts)
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        build_model("timm/resnet18", pretrained=True)
    assert caplog.messages == []
    warn()
    assert caplog.messages == ["Retrying in 8s [Retry 5/5]."]
