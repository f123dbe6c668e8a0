"""Stages of any network, and what it means to freeze some."""

import pytest
import timm
import torch
from torch import nn

from mfkd.distill import Distiller
from mfkd.errors import ConfigError, UnknownNameError
from mfkd.models import build_model
from mfkd.nn.rest import rest
from mfkd.train.finetune import freeze, layer_depths, module_stages

SHAPE = (3, 32, 32)


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=6, embed_dim=12, num_heads=3, num_classes=4
    )


class Odd(nn.Module):
    """Parts that are defined in another order than they run, one that never runs, and a weight of its own."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8, affine=False), nn.Dropout(0.5))
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.attention = nn.MultiheadAttention(8, 2)
        self.unused = nn.Linear(2, 2)
        self.offset = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x):
        x = self.second(self.first(x + self.offset))
        tokens = x.flatten(2).permute(2, 0, 1)
        return self.fc(self.attention(tokens, tokens, tokens)[0].mean(0))


class Flat(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3), nn.Linear(3, 2))


def stage_of_parameters(network, shape=SHAPE):
    stages = module_stages(network, shape)
    return {name: stages[name.rpartition(".")[0]] for name, _ in network.named_parameters()}


@pytest.mark.parametrize(("model", "stages"), [("resnet8", 3), ("vgg8", 4), ("wrn_16_1", 3), ("MobileNetV2", 4)])
def test_stages_of_our_networks_follow_their_blocks(model, stages):
    found = stage_of_parameters(build_model(model, num_classes=4))
    order = list(dict.fromkeys(found.values()))  # in the order of definition, which is that of running
    assert order[-1] == "head"
    assert [name for name in order if name.startswith("stage")] == [f"stage{n}" for n in range(1, stages + 1)]


def test_stages_of_a_resnet_by_hand():
    found = stage_of_parameters(build_model("resnet14", num_classes=4))
    expected = {
        "conv1": "stem",
        "bn1": "stem",
        "layer1": "stage1",
        "layer2": "stage2",
        "layer3": "stage3",
        "fc": "head",
    }
    assert {name: expected[name.partition(".")[0]] for name in found} == found


def test_stages_of_a_transformer_are_thirds_and_the_embedding_goes_with_the_first():
    found = stage_of_parameters(vit())
    for name, stage in found.items():
        block = int(name.split(".")[1]) if name.startswith("blocks.") else None
        if block is not None:
            assert stage == f"stage{block // 2 + 1}", name
        else:
            assert stage == ("head" if name.startswith(("norm", "head")) else "stage1"), name


def test_what_counts_is_when_a_part_runs():
    found = stage_of_parameters(Odd())
    assert (found["offset"], found["first.0.weight"], found["second.0.weight"]) == ("stage1", "stage1", "stage2")
    # The projection is called by no module; it goes with the attention.
    assert found["attention.in_proj_weight"] == found["attention.out_proj.weight"] == found["fc.weight"] == "head"
    assert found["unused.weight"] == "head"


def test_a_frozen_part_learns_nothing_and_its_statistics_rest():
    torch.manual_seed(0)
    network = build_model("resnet14", num_classes=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    resting = freeze(network, ["stem", "layer2.0"], SHAPE)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        network.train()
        rest(network, resting)
        network(torch.randn(4, *SHAPE)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in network.state_dict().items():
        frozen = name.startswith(("conv1.", "bn1.", "layer2.0."))
        assert torch.equal(value, before[name]) == frozen, name
    assert network.training
    assert network.layer1.training
    assert not network.bn1.training
    assert network.layer2.training  # only a part of it rests
    assert not any(module.training for module in network.layer2[0].modules())


def test_what_has_no_weights_rests_with_its_stage():
    network = Odd().train()
    resting = freeze(network, ["stage2"], SHAPE)
    assert set(resting) == {"second", "second.0", "second.1", "second.2"}  # BatchNorm without weights, and dropout
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == [
        "second.0.weight",
        "second.0.bias",
    ]


def test_single_parameters_may_be_named():
    network = vit()
    assert freeze(network, ["pos_embed", "patch_embed"], SHAPE) == freeze(vit(), ["patch_embed"], SHAPE)
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == {
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }


def test_nothing_named_is_nothing_done():
    network = build_model("resnet8", num_classes=4)
    assert freeze(network, (), SHAPE) == ()
    assert all(p.requires_grad for p in network.parameters())


def test_a_network_without_maps_is_frozen_by_path():
    network = Flat()
    assert freeze(network, ["1"], (3, 2, 2)) == ("1",)
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("names", "kind", "text"),
    [
        (
            ["stage9"],
            UnknownNameError,
            "unknown part in train.freeze 'stage9'; did you mean stage3 or stage2 or stage1? "
            "stages: stem, stage1, stage2, stage3, head.",
        ),
        (
            ["layr1"],
            UnknownNameError,
            "unknown part in train.freeze 'layr1'; did you mean layer1 or layer1.0 or layer3? "
            "stages: stem, stage1, stage2, stage3, head.",
        ),
        (["relu"], ConfigError, "train.freeze: relu has no weights; name a stage or a module that has some."),
        (
            ["stem", "stage1", "stage2", "stage3", "head"],
            ConfigError,
            "train.freeze=['stem', 'stage1', 'stage2', 'stage3', 'head'] leaves nothing of the student to learn; "
            "name fewer parts.",
        ),
    ],
)
def test_refusals(names, kind, text):
    with pytest.raises(kind) as error:
        freeze(build_model("resnet8", num_classes=4), names, SHAPE)
    assert str(error.value) == text


def test_layers_of_our_networks_are_their_stages():
    depths = layer_depths(build_model("resnet8", num_classes=4), SHAPE)
    by_hand = {"conv1": 4, "bn1": 4, "layer1": 3, "layer2": 2, "layer3": 1, "fc": 0}
    assert depths == {name: by_hand[name.partition(".")[0]] for name in depths}


def test_layers_of_timm_are_its_own():
    depths = layer_depths(vit(), SHAPE)
    assert (depths["head.weight"], depths["blocks.5.mlp.fc1.weight"], depths["blocks.0.attn.qkv.weight"]) == (0, 1, 6)
    assert depths["pos_embed"] == depths["patch_embed.proj.bias"] == 7


def test_layers_without_maps_are_the_immediate_parts():
    assert layer_depths(Flat(), (3, 2, 2)) == {
        "1.weight": 2, "1.bias": 2, "3.weight": 1, "3.bias": 1, "4.weight": 0, "4.bias": 0
    }  # fmt: skip


def test_a_run_leaves_frozen_parts_alone_whatever_is_averaged_or_prepared(lab):
    job = lab.job(freeze=["0", "1"], ema=0.5)
    start = lab.distiller(job).student.state_dict()
    _, network = lab.train(job)
    end = network.state_dict()
    assert all(torch.equal(end[name], start[name]) == name.startswith(("0.", "1.")) for name in end)


@pytest.mark.parametrize("method", ["ab", "fsp"])
def test_frozen_parts_rest_in_stages_that_train_the_student_too(method):
    teacher, student = (build_model(name, num_classes=4) for name in ("resnet14", "resnet8"))
    distiller = Distiller(teacher, student, method, input_shape=SHAPE, epochs=9)
    distiller.resting = freeze(student, ["stem", "stage1"], SHAPE)
    start = {name: value.clone() for name, value in student.state_dict().items()}
    distiller.prepare([(torch.randn(8, *SHAPE), torch.arange(8) % 4)])
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, start[name])}
    assert not [name for name in moved if name.startswith(("conv1", "bn1", "layer1"))]
    assert "layer2.0.bn1.running_mean" in moved

    distiller = Distiller(teacher, student, "fsp", input_shape=SHAPE, epochs=9)
    distiller.resting = freeze(student, ["stem", "stage1", "stage2", "stage3"], SHAPE)
    with pytest.raises(ConfigError) as caught:
        distiller.prepare([(torch.randn(8, *SHAPE), torch.arange(8) % 4)])
    assert str(caught.value) == (
        "fsp prepares parts of the student that are all frozen; freeze fewer of them with train.freeze, or choose "
        "another method."
    )


def test_groups_go_on_after_an_interruption_as_if_there_was_none(lab, monkeypatch):
    from mfkd.train import loop

    options = {"layer_decay": 0.5, "no_decay": True, "freeze": ["0"], "momentum": 0.9}
    _, whole = lab.train(lab.job("whole", **options))
    epoch = loop.Fit._epoch
    done = []

    def first_only(fit):
        if done:
            raise KeyboardInterrupt
        epoch(fit)
        done.append(1)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Fit, "_epoch", first_only)
        with pytest.raises(KeyboardInterrupt):
            lab.train(lab.job("parts", **options))
    _, parts = lab.train(lab.job("parts", **options))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in parts.state_dict().items())


def test_a_run_refuses_names_that_match_nothing(lab):
    with pytest.raises(UnknownNameError, match=r"unknown part in train\.freeze 'stem2'"):
        lab.train(lab.job(freeze=["stem2"]))
