import pytest
import torch
from torch.nn.functional import normalize

from mfkd.errors import ConfigError, ShapeError
from mfkd.nn.memory import ContrastMemory

LABELS = torch.tensor([2, 0, -1, 0, 5, 2, 0, -1, 5, 0])  # classes 1, 3 and 4 have no image


def memory(**options):
    return ContrastMemory(LABELS, width=4, **options)


def test_negatives_are_all_rows_of_other_classes_and_no_others():
    it = memory(negatives=7)
    index = torch.arange(10)
    seen = [set() for _ in index]
    for _ in range(200):
        rows, labelled = it.draw(index)
        assert rows.shape == (10, 1 + it.drawn)
        assert torch.equal(rows[:, 0], index)
        for found, row in zip(seen, rows[:, 1:].tolist(), strict=True):
            found |= set(row)
    assert labelled.tolist() == [True, True, False, True, True, True, True, False, True, True]
    for row, label in enumerate(LABELS.tolist()):
        if label >= 0:
            assert seen[row] == {i for i, other in enumerate(LABELS.tolist()) if other not in (label, -1)}, row


def test_draws_are_even():
    rows, _ = ContrastMemory(LABELS, 4, negatives=6).draw(torch.zeros(20_000, dtype=torch.int64))
    counts = rows[:, 1:].flatten().bincount(minlength=10)
    assert counts[[1, 3, 4, 6, 8, 9]].sum() == counts.sum()
    # The deviation of a count is about 129.
    assert (counts[[1, 3, 4, 6, 8, 9]] - 20_000).abs().max() < 600


def test_draws_depend_on_torchs_seed_alone():
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(memory().draw(torch.tensor([0, 4]))[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("wanted", "drawn"), [(1, 1), (6, 6), (16384, 6)])
def test_no_more_negatives_than_a_class_has_in_others(wanted, drawn):
    assert memory(negatives=wanted).drawn == drawn  # 8 labelled rows, the smallest classes have 2


def test_an_update_mixes_the_given_rows_and_leaves_the_others():
    it = memory(momentum=0.25)
    before = it.student.clone(), it.teacher.clone()
    student, teacher = torch.randn(2, 2, 4)
    index = torch.tensor([7, 3])
    it.update(index, student, teacher)
    for found, old, new in ((it.student, before[0], student), (it.teacher, before[1], teacher)):
        for row in range(10):
            place = index.tolist().index(row) if row in index else None
            expected = old[row] if place is None else normalize(0.25 * old[row] + 0.75 * new[place], dim=0)
            assert torch.allclose(found[row], expected, atol=1e-6), row


def test_it_starts_with_lengths_near_one():
    it = ContrastMemory(torch.arange(1000) % 2, width=128)
    for side in (it.student, it.teacher):
        assert side.square().sum(1).mean() == pytest.approx(1, abs=0.02)
        assert side.abs().max() <= (3 / 128) ** 0.5
    assert not torch.equal(it.student, it.teacher)


def test_the_normaliser_is_that_of_the_first_training_batch():
    it = memory()
    first, second = torch.randn(2, 2, 3, 5)
    expected = first.exp().mean(dim=(1, 2)).log()
    assert torch.allclose(it.eval().normaliser(first), expected)
    assert it.log_z.isinf().all()  # not kept in evaluation
    assert torch.allclose(it.train().normaliser(first), expected)
    assert torch.allclose(it.normaliser(second), expected)
    assert torch.allclose(it.log_z, expected)


def test_the_state_carries_embeddings_and_normaliser_but_no_labels():
    it, other = memory(), memory()
    other.normaliser(torch.randn(2, 3, 5))
    assert set(it.state_dict()) == {"student", "teacher", "log_z"}
    other.load_state_dict(it.state_dict())
    scores = torch.randn(2, 3, 5)
    assert torch.equal(other.normaliser(scores), it.normaliser(scores))  # unknown again, as in what was loaded
    assert torch.equal(other.student, it.student)
    other.load_state_dict(it.state_dict())
    assert torch.equal(other.normaliser(torch.zeros(2, 3, 5)), it.log_z)


def test_refusals():
    with pytest.raises(ConfigError, match=r"2 or more classes, got 1 among 4 labels; give the training labels of all"):
        ContrastMemory(torch.tensor([3, 3, -1, 3]))
    with pytest.raises(ShapeError, match=r"row 12 is beyond the 10 that the memory was built for; give num_samples"):
        memory().draw(torch.tensor([1, 12]))
