from dataclasses import replace

import pytest
import torch

from mfkd.errors import ConfigError, UnknownNameError
from mfkd.methods import METHODS, PRESETS, build, resolve
from mfkd.methods.kd import KD, KDConfig
from mfkd.methods.mfkd import MFKD, MFKDConfig


def test_a_preset_stands_for_its_mapping_and_a_name_for_itself():
    assert dict(resolve("mfkd").configs) == {
        "mfkd": MFKDConfig(weight=256.0, fade=0.5),
        "kd": KDConfig(temperature=4.0, weight=1.0),
    }
    assert dict(resolve("kd").configs) == {"kd": KDConfig()}
    assert resolve("none").methods == ()
    assert resolve({}).methods == ()


def test_a_mapping_is_exactly_what_it_names():
    spec = resolve({"mfkd": {"kind": "concat"}, "ce": {"weight": 0.1}})
    assert dict(spec.configs) == {"mfkd": MFKDConfig(kind="concat")}
    assert spec.ce == 0.1
    assert resolve({"kd": None}).configs["kd"] == KDConfig()


def test_a_ready_method_keeps_its_own_options(make_context):
    method = KD(KDConfig(weight=0.9, warmup=0.5), make_context())
    spec = resolve(method)
    assert spec.methods == ("kd",)
    objective = build(spec, make_context())
    assert dict(objective.named())["kd"] is method
    objective.set_progress(0.25)
    assert objective.weight("kd") == pytest.approx(0.45)


@pytest.mark.parametrize("name", [*METHODS, *PRESETS])
def test_every_name_can_be_resolved_and_built(name, make_context):
    spec = resolve(name)
    context = make_context(num_samples=8, labels=torch.arange(8) % 4)
    # fsp wants maps of one width on both sides
    same = replace(context, student=context.teacher, student_classifier=context.teacher_classifier)
    objective = build(spec, same)
    assert tuple(objective.methods) == spec.methods
    assert objective.notes == ()


def test_a_preset_drops_the_logit_part_with_a_note_but_a_mapping_is_refused(make_context):
    context = make_context(teacher_logits=False)
    objective = build(resolve("mfkd"), context)
    assert list(objective.methods) == ["mfkd"]
    assert isinstance(objective.methods["mfkd"], MFKD)
    assert not objective.needs.logits
    assert objective.notes == (
        "kd is off: the teacher's head has other classes than the student; teacher.head=tune fits a new one.",
    )
    for explicit in ("kd", {"mfkd": {}, "kd": {}}):
        with pytest.raises(ConfigError, match=r"kd needs a teacher with the student's classes"):
            build(resolve(explicit), context)


@pytest.mark.parametrize(
    ("method", "kind", "text"),
    [
        ("mfdk", UnknownNameError, "unknown method 'mfdk'; did you mean mfkd"),
        ({"kdd": {}}, UnknownNameError, "unknown method 'kdd'; did you mean kd"),
        (
            {"mfkd": {"weigth": 1}},
            UnknownNameError,
            r"unknown key 'method\.mfkd\.weigth'; did you mean method\.mfkd\.w",
        ),
        ({"kd": {"temperature": 0}}, ConfigError, r"method\.kd\.temperature: got 0, expected more than 0"),
        (
            {"ce": {"weight": -1}},
            ConfigError,
            r"method\.ce\.weight: got -1, expected 0 or more",
        ),
        ({"kd": {"weight": True}}, ConfigError, r"method\.kd\.weight: got True"),
        ({"ce": {"warmup": 1}}, UnknownNameError, r"unknown key 'method\.ce\.warmup'"),
        ({"kd": 0.9}, ConfigError, r"method\.kd: got 0\.9, expected a mapping of options such as \{weight: 1\.0\}"),
        (
            {"mfkd": {"kind": "static", "head_weight": 3}},
            ConfigError,
            r"method\.mfkd: head_weight 3 needs",
        ),
    ],
)
def test_refusals(method, kind, text):
    with pytest.raises(kind, match=text):
        resolve(method)


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ({}, "no method"),
        ({"ab": {}}, "ab (no term after its stage)"),
        ({"fsp": {}, "kd": {"weight": 0}}, "fsp (no term after its stage) and kd (weight 0)"),
    ],
)
def test_nothing_to_learn_is_refused(methods, told):
    with pytest.raises(ConfigError) as refusal:
        resolve({**methods, "ce": {"weight": 0}})
    assert str(refusal.value) == (
        f"method: ce.weight 0 and {told} leave nothing to learn; give ce a weight, or name a method that adds a term."
    )
    assert resolve({**methods, "dkd": {}, "ce": {"weight": 0}}).ce == 0
