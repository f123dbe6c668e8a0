"""Where the classifier is, and what is loaded or left when it has other classes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mfkd.errors import CheckpointError
from mfkd.models import build_model
from mfkd.models.heads import classifier_path, classifier_paths, head_classes, head_prefixes, strip_prefixes
from mfkd.models.weights import load_weights, save_weights


def convolutional(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_the_classifier_is_found() -> None:
    assert classifier_path(build_model("resnet8")) == "fc"
    assert classifier_path(build_model("MobileNetV2")) == "classifier.0"
    assert classifier_path(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))) == "2"
    assert classifier_path(convolutional(5)) == "1"
    assert classifier_path(build_model("torchvision/squeezenet1_1")) == "classifier.1"
    with pytest.raises(
        CheckpointError, match=r"^Sequential has no linear classifier; set its attribute classifier_path"
    ):
        classifier_path(nn.Sequential(nn.ReLU()))


def test_distilled_networks_of_timm_have_two() -> None:
    model = build_model("timm/deit_tiny_distilled_patch16_224", num_classes=3, depth=1)
    assert classifier_paths(model) == ("head", "head_dist")
    assert head_prefixes(model) == ("head.", "head_dist.")
    assert classifier_paths(build_model("timm/resnet10t", num_classes=3)) == ("fc",)


def test_prefixes_that_all_names_have_are_taken_off() -> None:
    assert strip_prefixes(["module._orig_mod.model.a", "module._orig_mod.model.b"]) == ["a", "b"]
    assert strip_prefixes(["module.a", "b"]) == ["module.a", "b"]
    assert strip_prefixes([]) == []
    wrapped = nn.Sequential()
    wrapped.add_module("model", build_model("resnet8", num_classes=3))
    assert (classifier_path(wrapped), head_prefixes(wrapped)) == ("model.fc", ("fc.",))
    assert head_classes(wrapped, {"fc.weight": torch.zeros(7, 64)}) == 7


@pytest.mark.parametrize(
    "name", ["timm/deit_tiny_distilled_patch16_224", "timm/levit_128s", "torchvision/squeezenet1_1", "wrapped"]
)
def test_heads_of_all_kinds_are_counted_told_and_reset(name: str, tmp_path: Path) -> None:
    def build(classes: int) -> nn.Module:
        if name != "wrapped":
            return build_model(name, num_classes=classes, **({"depth": 1} if "deit" in name else {}))
        wrapped = nn.Sequential()
        wrapped.add_module("model", build_model("resnet8", num_classes=classes))
        return wrapped

    source, target = build(5), build(7)
    path = tmp_path / "w"
    save_weights(path, source.state_dict())
    with pytest.raises(CheckpointError, match=r"have a head of 5 classes, expected 7 classes; give the same number"):
        load_weights(target, path)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    report = load_weights(target, path, head="reset")
    heads = tuple(f"{head}." for head in classifier_paths(target))
    assert report.fresh == tuple(key for key in before if key.startswith(heads)) != ()
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor, (before if key in report.fresh else source.state_dict())[key]), key
    assert load_weights(build(5), path).fresh == ()


def test_a_network_without_a_classifier_loads_what_fits(tmp_path: Path) -> None:
    source, target = (nn.Sequential(nn.Conv1d(2, 3, 1)) for _ in range(2))
    save_weights(tmp_path / "w", source.state_dict())
    for head in ("keep", "reset"):
        load_weights(target, tmp_path / "w", head=head)
        assert torch.equal(target[0].weight, source[0].weight)
    with pytest.raises(CheckpointError, match="belong to another network than Sequential: 0 missing, 0 unexpected, 1 "):
        load_weights(nn.Sequential(nn.Conv1d(4, 3, 1)), tmp_path / "w")


def test_a_pretrained_squeezenet_gets_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import SqueezeNet1_1_Weights

    stored = build_model("torchvision/squeezenet1_1", num_classes=None).state_dict()
    monkeypatch.setattr(type(SqueezeNet1_1_Weights.DEFAULT), "get_state_dict", lambda self, **_: stored)
    model = build_model("torchvision/squeezenet1_1", num_classes=5, pretrained=True)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert torch.equal(model.features[0].weight, stored["features.0.weight"])
    assert model.pretrained_cfg["num_classes"] == 1000
