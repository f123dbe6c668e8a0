import torch

from mfkd.functional.labels import hard_labels


def test_labels_are_handed_on_as_they_are():
    label = torch.tensor([2, -1, 0])
    assert torch.equal(hard_labels(label), label)


def test_of_a_mixed_image_the_class_with_most_weight_counts():
    target = torch.tensor([[0.3, 0.7, 0.0], [0.2, 0.1, 0.7], [1.0, 0.0, 0.0]])
    assert hard_labels(torch.tensor([0, 1, -1]), target).tolist() == [1, 2, 0]


def test_a_half_labelled_mix_keeps_its_label_and_an_empty_row_has_none():
    target = torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.0]])
    labels = hard_labels(torch.tensor([1, 1]), target)
    assert labels.tolist() == [2, -1]
    assert labels.dtype == torch.int64
