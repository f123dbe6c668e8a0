"""Compiling: the same training, decided once, agreed by all, and never in the way where it does not work."""

from contextlib import nullcontext

import pytest
import torch

import mfkd.train.compile as subject
from mfkd.config import TrainConfig
from mfkd.errors import TrainingError
from mfkd.train.checkpoint import load_checkpoint
from mfkd.train.compile import compile_networks

BATCH = 8


@pytest.fixture
def traced(monkeypatch):
    """torch.compile replaced by something that runs as it is; the networks that it was given."""
    given = []

    def compiled(network, **options):
        assert options == {"dynamic": False, "fullgraph": True}
        given.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compiled)
    return given


@pytest.fixture
def broken(monkeypatch):
    def compiled(network, **_):
        def fail(_image):
            raise RuntimeError("No working C++ compiler found.\nlong story")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)


def compile_all(distiller, choice, steps=1000, **options):
    distiller.train()
    distiller.quicken()
    training = TrainConfig(compile=choice)
    return compile_networks(distiller, training, batch=BATCH, steps=steps, autocast=nullcontext, **options)


def hooks(distiller):
    networks = (distiller.student, distiller.teacher.quick.network)
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for n in networks for m in n.modules())


def batch():
    drawn = torch.Generator().manual_seed(3)
    images = torch.randn(BATCH, 3, 8, 8, generator=drawn).contiguous(memory_format=torch.channels_last)
    return images, torch.arange(BATCH) % 4


def gradients(distiller):
    loss = distiller(*batch()).loss
    distiller.zero_grad()
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in distiller.student.parameters()]]


def close(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_true_compiles_both_and_a_step_stays_the_same(lab, traced):
    distiller = lab.distiller(lab.job(), {"at": {}})
    state = {name: value.clone() for name, value in distiller.student.state_dict().items()}
    expected = gradients(distiller)
    distiller.student.load_state_dict(state)
    found = compile_all(distiller, True)
    assert found.names == ["student", "teacher"]
    assert len(traced) == 2
    assert all(torch.equal(value, state[name]) for name, value in distiller.student.state_dict().items())
    assert all(p.grad is None for p in distiller.student.parameters())
    assert hooks(distiller) > 0
    close(gradients(distiller), expected)
    assert not any(tapped.reader.raw for tapped in traced)  # nothing of a pass is kept
    found.remove()
    assert hooks(distiller) == 0
    assert distiller.tapped is None
    assert distiller.teacher.quick.compiled is None


def test_a_real_compiler_gives_the_same_step(lab):
    distiller = lab.distiller(lab.job(), {"at": {}})
    state = {name: value.clone() for name, value in distiller.student.state_dict().items()}
    expected = gradients(distiller)
    distiller.student.load_state_dict(state)
    found = compile_all(distiller, True)
    assert (found.names, found.notes) == (["student", "teacher"], [])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    close(gradients(distiller), expected)
    with torch.no_grad():
        distiller.student(batch()[0])  # as an evaluation does
    gradients(distiller)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # the trial compiled what the loop runs
    found.remove()


def test_false_and_short_runs_compile_nothing(lab, traced):
    for choice, steps in ((False, 10**6), ("auto", subject.LEAST - 1)):
        assert compile_all(lab.distiller(lab.job()), choice, steps).names == []
    assert traced == []


@pytest.mark.parametrize(("steps", "tried"), [(40_000, False), (60_000, True)])
def test_auto_tries_what_should_repay_its_compile_time(lab, traced, monkeypatch, steps, tried):
    # The teacher has 4 layers with weights: 3 * 0.4 * 4 = 4.8 s must be saved, by 0.2 of half a millisecond a step.
    monkeypatch.setattr(subject, "_run", lambda part, function: 0.0005)
    compile_all(lab.distiller(lab.job()), "auto", steps)
    assert [type(tapped.model).__name__ for tapped in traced] == ["Sequential"] * tried


@pytest.mark.parametrize(("ratio", "kept"), [(0.96, ["student", "teacher"]), (0.98, [])])
def test_auto_keeps_what_is_measured_to_be_faster(lab, traced, monkeypatch, ratio, kept):
    monkeypatch.setattr(subject, "_run", lambda part, function: 1.0 if function == part.eager else ratio)
    distiller = lab.distiller(lab.job(), {"at": {}})
    assert compile_all(distiller, "auto", 10**6).names == kept
    assert len(traced) == 2
    assert (hooks(distiller) > 0) == bool(kept)


def test_all_processes_must_say_yes(lab, traced, monkeypatch):
    monkeypatch.setattr(subject, "_worth", lambda part, steps: True)
    monkeypatch.setattr(subject, "_faster", lambda part, function: True)
    asked = []

    def agree(own):
        asked.append(own)
        return own and len(asked) != 2  # another process cannot compile the student

    found = compile_all(lab.distiller(lab.job()), "auto", agree=agree)
    assert found.names == ["teacher"]
    assert found.notes == ["Not compiled: the student cannot be compiled here (another process cannot)."]
    assert asked == [True] * 5


def test_without_a_compiler_auto_goes_on_and_true_refuses(lab, broken, monkeypatch):
    monkeypatch.setattr(subject, "_worth", lambda part, steps: True)
    distiller = lab.distiller(lab.job())
    found = compile_all(distiller, "auto")
    assert found.names == []
    assert found.notes == [
        f"Not compiled: the {name} cannot be compiled here (RuntimeError: No working C++ compiler found)."
        for name in ("student", "teacher")
    ]
    assert hooks(distiller) == 0
    with pytest.raises(TrainingError) as caught:
        compile_all(distiller, True)
    assert str(caught.value) == (
        "train.compile=true: the student cannot be compiled here (RuntimeError: No working C++ compiler found); "
        "install a C++ compiler if that is what is missing, or set train.compile=auto."
    )


def test_a_resumed_run_keeps_what_was_decided(lab, traced, monkeypatch):
    monkeypatch.setattr(subject, "_worth", lambda part, steps: True)
    monkeypatch.setattr(subject, "_faster", lambda part, function: part.name == "teacher")
    monkeypatch.setattr(subject, "LEAST", 0)
    job = lab.job(epochs=2, compile="auto")
    record, _ = lab.train(job)
    assert record.compiled == ["teacher"]
    saved = load_checkpoint(job.checkpoint)
    assert saved["state"]["compiled"] == ["teacher"]

    traced.clear()
    monkeypatch.setattr(subject, "_faster", lambda part, function: pytest.fail("decided anew"))
    monkeypatch.setattr(subject, "_worth", lambda part, steps: pytest.fail("decided anew"))
    saved["state"]["epoch"] = 1
    saved["state"]["rows"] = saved["state"]["rows"][:1]
    torch.save(saved, job.checkpoint)
    record, _ = lab.train(job)
    assert record.compiled == ["teacher"]
    assert len(traced) == 1


def test_choice_is_no_part_of_the_settings(lab):
    assert lab.job(compile=True).hash == lab.job(compile=False).hash


def test_training_compiled_is_training(lab, traced):
    job = lab.job("compiled", compile=True, ema=0.5)
    record, network = lab.train(job, {"at": {"weight": 1.0}, "kd": {}})
    plain, expected = lab.train(lab.job("plain", compile=False, ema=0.5), {"at": {"weight": 1.0}, "kd": {}})
    assert record.compiled == ["student", "teacher"]
    assert plain.compiled == []
    assert [row["loss"] for row in record.curves] == pytest.approx([row["loss"] for row in plain.curves], rel=1e-4)
    close(network.parameters(), expected.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
