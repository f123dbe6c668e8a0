import torch
import torch.nn.functional as F

from mfkd.nn.cross import CrossAttention, projection, similarity_rows


def test_rows_by_hand():
    # Images 1, 2, 3 and 4, 5 in groups of three, the second filled up with a zero.
    rows = similarity_rows(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(5, 1, 1, 1), 3)
    assert rows.tolist() == [[1, 2, 3], [2, 4, 6], [3, 6, 9], [16, 20, 0], [20, 25, 0]]


def test_a_batch_of_the_width_is_the_published_matrix():
    maps = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    flat = maps.reshape(8, -1)
    assert torch.allclose(similarity_rows(maps, 8), flat @ flat.T)


def test_attention_by_its_definition():
    torch.manual_seed(0)
    part = CrossAttention(2, 3, 8)
    student, teacher = ([torch.randn(5, c, 2, 2) for c in widths] for widths in ((2, 4), (3, 3, 5)))
    weights = part(student, teacher)
    assert weights.shape == (5, 2, 3)
    assert torch.allclose(weights.sum(2), torch.ones(5, 2))
    assert [tuple(p.shape) for p in part.queries[0].parameters()] == [(4, 8), (4,), (2, 4), (2,)]
    query, keys = part.queries[1](similarity_rows(student[1], 8))[3], [
        key(similarity_rows(maps, 8))[3] for key, maps in zip(part.keys, teacher, strict=True)
    ]  # fmt: skip
    scores = torch.stack([F.cosine_similarity(query, key, dim=0) for key in keys])
    assert torch.allclose(weights[3, 1], scores.exp() / scores.exp().sum(), atol=1e-6)


def test_projection_is_twice_as_wide_inside():
    part = projection(3, 4)
    assert part(torch.randn(2, 3, 5, 5)).shape == (2, 4, 5, 5)
    assert [tuple(p.shape) for p in part.parameters() if p.ndim == 4] == [(8, 3, 1, 1), (8, 8, 3, 3), (4, 8, 1, 1)]
