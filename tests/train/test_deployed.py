"""A run whose method replaces the student's classifier: what is measured, written and read back."""

import pytest
import torch

from mfkd import load_student
from mfkd.config import load_config
from mfkd.errors import CheckpointError
from mfkd.handed import evaluate_run
from mfkd.methods.projected import NOTE, Projected
from mfkd.models.weights import read_weights, save_weights
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.records import RunRecord
from mfkd.train import cost, session
from mfkd.train.student import load_with_card

TINY = (
    "data.name=digits", "data.fraction=0.1", "teacher.model=resnet14", "student.model=resnet8", "train.epochs=1",
    "train.batch_size=32", "train.schedule=constant", "log.trackers=[]", "teacher.train.epochs=1", "method=simkd",
)  # fmt: skip


@pytest.fixture(scope="module")
def do(tmp_path_factory):
    """(folder, summary, the network as it was trained) of `mfkd run` with `simkd`."""

    def do(*overrides):
        folder, trained, save = tmp_path_factory.mktemp("deployed") / "run", [], session.save_student
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(cost, "SECONDS", 0.0)
            patched.setattr(
                session, "save_student", lambda path, net, card: (trained.append(net), save(path, net, card))
            )
            summary = run(open_plan(load_config(None, [*TINY, f"out={folder}", *overrides])), lambda _: None)
        return folder, summary, trained[-1].eval()

    return do


@pytest.fixture(scope="module")
def plain(do):
    return do()


def assert_same(network, trained):
    image = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert isinstance(network, Projected)
    assert network.projection == trained.projection
    state, expected = network.state_dict(), trained.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    with torch.no_grad():  # of one memory format, since that decides the order of sums
        assert torch.equal(network(image), trained.to(memory_format=torch.contiguous_format)(image))


def test_what_is_read_back_is_what_was_trained(plain):
    folder, _, trained = plain
    assert_same(load_student(folder), trained)
    network, card = load_with_card(folder / "distilled" / "seed-0")
    assert_same(network, trained)
    assert card.projection == trained.projection


def test_an_averaged_network_is_averaged_in_all_its_parts(do):
    folder, _, trained = do("train.ema=0.5")
    assert_same(load_student(folder), trained)
    assert {p.requires_grad for p in trained.projector.parameters()} == {False}  # a copy, not the one that trains


def test_the_record_tells_of_the_deployed_network(plain):
    folder, summary, _ = plain
    record = RunRecord.load(folder / "distilled" / "seed-0" / "record.json")
    assert record.notes == [NOTE]
    assert RunRecord.load(folder / "alone" / "seed-0" / "record.json").notes == []
    projector = 64 * 32 + 2 * 32 + 9 * 32 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    head, reused = (64 * 10 + 10,) * 2
    alone, distilled = (summary[name]["parameters"]["mean"] for name in ("student_alone", "student_distilled"))
    assert record.metrics["parameters"] == distilled == alone - head + projector + reused
    # On the last map, 2 x 2 cells, two a multiply-add.
    extra = 2 * 4 * (64 * 32 + 9 * 32 * 32 + 32 * 64)
    assert record.metrics["flops"] == summary["student_alone"]["flops"]["mean"] + extra
    assert record.curves[-1]["test_top1"] == pytest.approx(record.metrics["top1"])
    assert "train_top1" not in record.curves[-1]  # would be that of a classifier that nobody trains
    assert (folder / "distilled" / "seed-0" / "log.csv").read_text().startswith("epoch,lr,loss,ce,simkd,seconds,")
    found = evaluate_run(folder)
    assert (found["top1"], found["parameters"]) == (pytest.approx(record.metrics["top1"]), distilled)


def test_a_damaged_projection_is_refused(plain, tmp_path):
    state, metadata = read_weights(plain[0] / "student.safetensors")
    file = tmp_path / "student.safetensors"
    save_weights(file, state, {**metadata, "mfkd": metadata["mfkd"].replace('"hidden"', '"hiden"')})
    with pytest.raises(
        CheckpointError, match=r"its description of the network cannot be read \(.*hiden.*\); export it"
    ):
        load_student(file)
