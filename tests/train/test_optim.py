import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, OneCycleLR

from mfkd.config import TrainConfig
from mfkd.distill import Distiller
from mfkd.models import build_model
from mfkd.train.optim import Average, build_optimizer, lr_factor, parameter_groups, set_lr

STEPS = 7  # an epoch


def rates(make, count):
    """Learning rates that one of torch's own schedulers gives, as shares of the peak."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(count, **options):
    config = TrainConfig(**options)
    return [lr_factor(config, step, STEPS) for step in range(count)]


@pytest.mark.parametrize(
    ("options", "make"),
    [
        (
            {"schedule": "multistep", "epochs": 9, "milestones": (2, 5, 6), "gamma": 0.2},
            lambda o: MultiStepLR(o, [2 * STEPS, 5 * STEPS, 6 * STEPS], gamma=0.2),
        ),
        ({"schedule": "cosine", "epochs": 9}, lambda o: CosineAnnealingLR(o, 9 * STEPS)),
        ({"schedule": "constant", "epochs": 9}, lambda o: LambdaLR(o, lambda step: 1.0)),
        # torch's last rising step is pct_start * total - 1; ours is a fifth of the run.
        (
            {"schedule": "onecycle", "epochs": 9},
            lambda o: OneCycleLR(o, 1.0, total_steps=9 * STEPS, pct_start=0.2 + 1 / (9 * STEPS), cycle_momentum=False),
        ),
        (
            {"schedule": "onecycle", "epochs": 9, "warmup_epochs": 3},
            lambda o: OneCycleLR(
                o, 1.0, total_steps=9 * STEPS, pct_start=1 / 3 + 1 / (9 * STEPS), cycle_momentum=False
            ),
        ),
    ],
    ids=["multistep", "cosine", "constant", "onecycle", "onecycle-warmup"],
)
def test_schedule_agrees_with_torchs_own(options, make):
    count = options["epochs"] * STEPS - 1  # torch's one-cycle refuses a step beyond its end
    assert ours(count, **options) == pytest.approx(rates(make, count), rel=1e-9, abs=1e-12)


def test_warm_up_rises_evenly_to_the_peak_and_the_cosine_starts_there():
    found = ours(6 * STEPS, schedule="cosine", epochs=6, warmup_epochs=1)
    expected = rates(lambda o: LinearLR(o, 1 / (STEPS + 1), 1.0, STEPS), STEPS)
    assert found[:STEPS] == pytest.approx(expected)
    assert found[STEPS] == 1.0
    assert found[STEPS:] == pytest.approx(rates(lambda o: CosineAnnealingLR(o, 5 * STEPS), 5 * STEPS), abs=1e-12)


def test_the_last_step_of_onecycle_has_torchs_final_share():
    assert ours(9 * STEPS, schedule="onecycle", epochs=9)[-1] == pytest.approx(1 / (25 * 1e4))


def test_optimizers_get_every_option():
    weights = [nn.Parameter(torch.zeros(2))]
    sgd = build_optimizer(weights, TrainConfig(lr=0.3, momentum=0.7, nesterov=True, weight_decay=0.02))
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert [group[name] for name in ("lr", "momentum", "nesterov", "weight_decay")] == [0.3, 0.7, True, 0.02]
    adamw = build_optimizer(weights, TrainConfig(optimizer="adamw", lr=0.3, weight_decay=0.02))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.02)
    set_lr(adamw, 0.1)
    assert adamw.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("options", [{"momentum": 0.9, "nesterov": True}, {"optimizer": "adamw"}])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_fused_update_is_torchs_own_and_its_state_goes_on(options, kind):
    def trained(optimizer, weights, steps=3, state=None):
        if state is not None:
            optimizer.load_state_dict(state)
        for step in range(steps):
            for number, weight in enumerate(weights):
                weight.grad = (weight * (step + number + 1)).detach().sin()
            optimizer.step()
        return weights

    def weights():
        return [nn.Parameter(torch.linspace(-1, 1, n, dtype=kind)) for n in (3, 5)]

    config, mine, plain = TrainConfig(lr=0.1, weight_decay=0.05, **options), weights(), weights()
    fused = build_optimizer(mine, config)
    assert fused.param_groups[0]["fused"]
    slow = type(fused)(
        plain, **{name: v for name, v in fused.defaults.items() if name not in ("fused", "decoupled_weight_decay")}
    )
    tolerance = {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(trained(fused, mine), trained(slow, plain), **tolerance)
    again = [nn.Parameter(weight.detach().clone()) for weight in mine]
    restored = build_optimizer(again, config)  # goes on where another optimiser stopped
    torch.testing.assert_close(trained(restored, again, 2, slow.state_dict()), trained(fused, mine, 2), **tolerance)


def test_average_of_weights_and_statistics_by_hand():
    student = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        student[0].weight.fill_(1.0)
    average = Average(student, 0.75)
    for value in (2.0, 4.0):
        with torch.no_grad():
            student[0].weight.fill_(value)
            student[1].running_mean.fill_(10 * value)
            student[1].num_batches_tracked += 1
        average.update(student)
    # 1 -> 0.75 * 1 + 0.25 * 2 = 1.25 -> 0.75 * 1.25 + 0.25 * 4
    assert average.module[0].weight.item() == pytest.approx(1.9375)
    # 0 -> 5 -> 0.75 * 5 + 0.25 * 40
    assert average.module[1].running_mean.item() == pytest.approx(13.75)
    assert average.module[1].num_batches_tracked == 2
    assert not any(p.requires_grad for p in average.parameters())
    assert student[0].weight.item() == 4.0


SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def distiller():
    torch.manual_seed(0)
    teacher, student = build_model("resnet14", num_classes=4), build_model("resnet8", num_classes=4)
    return Distiller(teacher, student, "mfkd", input_shape=SHAPE)


def named(distiller, groups):
    """Options of each parameter, by name."""
    names = {parameter: name for name, parameter in distiller.named_parameters()}
    return {names[p]: group for group in groups for p in group["params"]}


def test_one_group_of_everything_by_default(distiller):
    (group,) = parameter_groups(distiller, TrainConfig(), SHAPE)
    assert list(group) == ["params"]
    assert all(a is b for a, b in zip(group["params"], distiller.trainable_parameters(), strict=True))


def test_layers_further_from_the_head_learn_more_slowly(distiller):
    config = TrainConfig(lr=0.2, layer_decay=0.5, weight_decay=0.01)
    found = named(distiller, parameter_groups(distiller, config, SHAPE))
    assert set(found) == {name for name, p in distiller.named_parameters() if p.requires_grad}
    by_hand = {"conv1": 4, "bn1": 4, "layer1": 3, "layer2": 2, "layer3": 1, "fc": 0}
    for name, group in found.items():
        owner, _, path = name.partition(".")
        depth = by_hand[path.partition(".")[0]] if owner == "student" else 0
        assert group["factor"] == 0.5**depth, name
        assert group["weight_decay"] == 0.01
    assert {name.partition(".")[0] for name in found} > {"student"}  # the method has parameters of its own


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_biases_and_norms_do_not_decay_where_it_is_asked_for(distiller, decay):
    config = TrainConfig(no_decay=True, weight_decay=0.01, layer_decay=decay)
    found = named(distiller, parameter_groups(distiller, config, SHAPE))
    values = dict(distiller.named_parameters())
    for name, group in found.items():
        flat = values[name].ndim < 2 or name.endswith(".bias")
        assert group["weight_decay"] == (0.0 if flat else 0.01), name
    assert {group["weight_decay"] for group in found.values()} == {0.0, 0.01}


def test_what_a_network_says_itself_does_not_decay():
    student = build_model("timm/vit_tiny_patch16_224", 4, img_size=16, patch_size=4, depth=1, embed_dim=12, num_heads=3)
    plain = Distiller(None, student, "none", input_shape=SHAPE)
    found = named(plain, parameter_groups(plain, TrainConfig(no_decay=True, weight_decay=0.01), SHAPE))
    assert found["student.pos_embed"]["weight_decay"] == found["student.cls_token"]["weight_decay"] == 0
    assert found["student.blocks.0.attn.qkv.weight"]["weight_decay"] == 0.01


def test_frozen_parameters_are_in_no_group(distiller):
    student = build_model("resnet8", num_classes=4)
    student.conv1.requires_grad_(False)
    plain = Distiller(None, student, "none", input_shape=SHAPE)
    found = named(plain, parameter_groups(plain, TrainConfig(layer_decay=0.5), SHAPE))
    assert "student.conv1.weight" not in found
    assert "student.bn1.weight" in found


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_schedule_scales_every_group(distiller, optimizer):
    config = TrainConfig(optimizer=optimizer, lr=0.2, layer_decay=0.5, no_decay=True, weight_decay=0.03)
    made = build_optimizer(parameter_groups(distiller, config, SHAPE), config)
    assert all(group["lr"] == 0.2 * group["factor"] for group in made.param_groups)
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, 0.03}
    set_lr(made, 0.1)
    assert sorted({group["lr"] for group in made.param_groups}) == [0.1 * 0.5**depth for depth in (4, 3, 2, 1, 0)]


def test_a_step_moves_each_layer_by_its_share():
    student = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    plain = Distiller(None, student, "none", input_shape=(2, 1, 1))
    config = TrainConfig(lr=1.0, momentum=0.0, weight_decay=0.0, layer_decay=0.25)
    made = build_optimizer(parameter_groups(plain, config, (2, 1, 1)), config)
    before = [layer.weight.clone() for layer in student[1:]]
    for layer in student[1:]:
        layer.weight.grad = torch.ones(2, 2)
    made.step()
    assert torch.allclose(before[0] - student[1].weight, torch.full((2, 2), 0.25))
    assert torch.allclose(before[1] - student[2].weight, torch.ones(2, 2))


def test_a_first_update_that_the_scaler_skips_leaves_momentum_at_zero():
    network = nn.Linear(64, 64, bias=False)
    kept = network.weight.detach().clone()
    optimizer = build_optimizer(network.parameters(), TrainConfig(precision="fp16", weight_decay=0.0))
    scaler = torch.amp.GradScaler("cpu")
    for factor, momentum in ((float("inf"), 0.0), (1.0, 1.0)):
        network.weight.grad = scaler.scale(torch.full_like(kept, factor))
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(optimizer.state[network.weight]["momentum_buffer"], torch.full_like(kept, momentum))
    assert torch.allclose(network.weight, kept - 0.05 * 1.0)
