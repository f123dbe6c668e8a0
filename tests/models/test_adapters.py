"""Networks of timm and torchvision by name; nothing is fetched here."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mfkd.errors import CheckpointError, ConfigError, UnknownNameError
from mfkd.models import build_model
from mfkd.models.weights import classifier_path


def test_timm_takes_channels_classes_and_options() -> None:
    model = build_model("timm/resnet18", num_classes=5, in_channels=1, stem_width=16).eval()
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
    assert classifier_path(model) == "fc"
    assert model.drop_rate == 0.0
    assert build_model("timm/resnet18", num_classes=5, drop_rate=0.25).drop_rate == 0.25


def test_no_number_of_classes_keeps_the_librarys_head() -> None:
    assert build_model("timm/vit_tiny_patch16_224", num_classes=None).head.out_features == 1000
    assert build_model("torchvision/shufflenet_v2_x0_5", num_classes=None).fc.out_features == 1000


def test_torchvision_takes_classes_and_options() -> None:
    model = build_model("torchvision/resnet18", num_classes=5, zero_init_residual=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert not model.layer1[0].bn2.weight.any()


def test_a_pretrained_head_of_other_classes_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    stored = build_model("torchvision/resnet18", num_classes=None).state_dict()
    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", lambda self, **_: stored)
    model = build_model("torchvision/resnet18", num_classes=5, pretrained=True)
    assert model.fc.weight.shape == (5, 512)
    assert torch.equal(model.conv1.weight, stored["conv1.weight"])
    kept = build_model("torchvision/resnet18", num_classes=1000, pretrained=True)
    assert torch.equal(kept.fc.weight, stored["fc.weight"])


def test_a_new_head_has_a_bias_where_the_old_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    really = models.get_model  # the same network with random weights; nothing is fetched
    monkeypatch.setattr(models, "get_model", lambda short, weights=None, **options: really(short, **options))
    for name in ("maxvit_t", "mnasnet0_5"):
        trained, loaded = (build_model(f"torchvision/{name}", 3, pretrained=one) for one in (True, False))
        assert trained.state_dict().keys() == loaded.state_dict().keys()
    assert "classifier.1.bias" in loaded.state_dict()


def test_a_pretrained_network_tells_the_statistics_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models
    from torchvision.transforms import InterpolationMode

    asked = []

    class Stored:
        def transforms(self) -> object:
            return SimpleNamespace(
                mean=[0.1, 0.2, 0.3],
                std=[0.4, 0.5, 0.6],
                crop_size=[24],
                resize_size=[32],
                interpolation=InterpolationMode.BICUBIC,
            )

    weights = SimpleNamespace(verify=lambda name: (asked.append(name), Stored())[1])
    monkeypatch.setattr(models, "get_model_weights", lambda name: weights)
    monkeypatch.setattr(models, "get_model", lambda name, **_: nn.Sequential(nn.Linear(2, 3)))
    told = {
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "input_size": (3, 24, 24),
        "crop_pct": 0.75,
        "interpolation": "bicubic",
        "num_classes": 3,
    }
    assert build_model("torchvision/resnet18", None, pretrained=True).pretrained_cfg == told
    assert not hasattr(build_model("torchvision/resnet18", None), "pretrained_cfg")
    assert asked == ["DEFAULT"]


AUXILIARY = {"googlenet": "GoogLeNet_Weights", "inception_v3": "Inception_V3_Weights"}


@pytest.mark.parametrize("name", AUXILIARY)
@pytest.mark.parametrize("options", [{}, {"aux_logits": False}])
def test_networks_with_auxiliary_heads_return_logits_while_training(
    name: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    image = torch.randn(2, 3, 96, 96)
    model = build_model(f"torchvision/{name}", num_classes=5, **options).train()  # without a warning
    assert model(image).shape == (2, 5)
    assert not any("aux" in path.lower() for path, _ in model.named_modules())
    stored = models.get_model(name, weights=None, init_weights=False, aux_logits=True).state_dict()
    monkeypatch.setattr(getattr(models, AUXILIARY[name]), "get_state_dict", lambda self, **_: stored)
    pretrained = build_model(f"torchvision/{name}", num_classes=5, pretrained=True, **options).train()
    assert pretrained(image).shape == (2, 5)
    assert pretrained.state_dict().keys() == model.state_dict().keys()


def test_auxiliary_heads_stay_where_they_are_asked_for() -> None:
    model = build_model("torchvision/googlenet", num_classes=5, init_weights=False, aux_logits=True)
    assert model.aux1.fc2.out_features == 5
    with pytest.raises(ConfigError, match=r"^torchvision/resnet18 has no option 'aux_logits'"):
        build_model("torchvision/resnet18", aux_logits=True)


def test_unreachable_weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        CheckpointError,
        match=r"^pretrained weights of timm/resnet18 cannot be fetched \(ConnectionError\); check the name and the co",
    ):
        build_model("timm/resnet18", pretrained=True)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_unknown_names_and_options_are_refused(library: str) -> None:
    with pytest.raises(
        UnknownNameError, match=rf"^unknown model '{library}/resnet19'; did you mean .*{library}/resnet18"
    ):
        build_model(f"{library}/resnet19")
    with pytest.raises(
        ConfigError, match=rf"^{library}/resnet18 has no option 'foo'; accepted: .*pretrained.*zero_init"
    ):
        build_model(f"{library}/resnet18", foo=1)


@pytest.mark.parametrize(
    ("model", "taken"), [("mobilenet_v3_small", {"dropout": 0.5, "reduced_tail": True}), ("convnext_tiny", {})]
)
def test_options_that_torchvision_would_leave_out_are_refused(model: str, taken: dict[str, object]) -> None:
    build_model(f"torchvision/{model}", num_classes=5, **taken)
    with pytest.raises(ConfigError, match=rf"^torchvision/{model} has no option 'droput'; accepted: .*pretrained"):
        build_model(f"torchvision/{model}", num_classes=5, droput=0.5)


def test_torchvision_takes_three_channels_alone() -> None:
    with pytest.raises(ConfigError, match=r"^torchvision/resnet18 takes images of 3 channels, got in_channels=1; use"):
        build_model("torchvision/resnet18", in_channels=1)


def test_a_head_needs_two_classes() -> None:
    with pytest.raises(ConfigError, match="got num_classes=0"):
        build_model("timm/resnet18", num_classes=0)
