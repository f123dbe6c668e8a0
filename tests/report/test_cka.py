import pytest
import torch

from mfkd.errors import ShapeError
from mfkd.report.cka import cka, gram, linear_cka, matrix


def slow(first, second):
    """The unbiased estimator by its sums over tuples of different images (Song et al., 2012, eq. 5)."""

    def hsic(k, m):
        n = len(k)
        different = [(i, j) for i in range(n) for j in range(n) if i != j]
        one = sum(k[i, j] * m[i, j] for i, j in different) / (n * (n - 1))
        pairs = [(i, j, p, q) for i, j in different for p, q in different if not {i, j} & {p, q}]
        two = sum(k[i, j] * m[p, q] for i, j, p, q in pairs) / (n * (n - 1) * (n - 2) * (n - 3))
        triples = [(i, j, q) for i, j in different for q in range(n) if q not in (i, j)]
        three = sum(k[i, j] * m[i, q] for i, j, q in triples) / (n * (n - 1) * (n - 2))
        return one + two - 2 * three

    k, m = first @ first.T, second @ second.T
    return hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5


@pytest.mark.parametrize(("images", "wide", "narrow"), [(4, 3, 2), (6, 5, 1), (7, 2, 9)])
def test_agrees_with_sums_over_tuples(images, wide, narrow):
    first, second = torch.randn(images, wide).double(), torch.randn(images, narrow).double()
    second += first[:, :1]
    assert linear_cka(first, second) == pytest.approx(float(slow(first, second)), abs=1e-9)


def test_features_are_like_themselves():
    features = torch.randn(20, 4, 3, 3)
    assert linear_cka(features, features) == pytest.approx(1)


def test_rotation_scale_and_offset_change_nothing():
    first, second = torch.randn(30, 6).double(), torch.randn(30, 6).double()
    turn = torch.linalg.qr(torch.randn(6, 6).double())[0]
    assert linear_cka(first, 3 * second @ turn + 5) == pytest.approx(linear_cka(first, second))
    assert linear_cka(first, first @ turn) == pytest.approx(1)


def test_unrelated_features_are_not_alike_however_many_there_are():
    assert abs(linear_cka(torch.randn(100, 2000), torch.randn(100, 2000))) < 0.05


def test_constant_features_are_like_nothing():
    assert cka(gram(torch.ones(5, 3)), gram(torch.randn(5, 3))) == 0


def test_large_maps_are_averaged_to_eight_cells():
    maps = torch.randn(5, 2, 16, 16)
    expected = gram(torch.nn.functional.avg_pool2d(maps, 2))
    torch.testing.assert_close(gram(maps), expected)


def test_matrix_has_a_row_for_each_of_the_first():
    grams = {name: gram(torch.randn(8, 3)) for name in "abc"}
    found = matrix(dict(list(grams.items())[:2]), grams)
    assert [len(row) for row in found] == [3, 3]
    assert found[1][1] == pytest.approx(1)
    assert found[0][1] == pytest.approx(found[1][0])


@pytest.mark.parametrize(("first", "second"), [(5, 6), (3, 3)])
def test_other_images_are_refused(first, second):
    with pytest.raises(ShapeError) as error:
        linear_cka(torch.ones(first, 2), torch.ones(second, 2))
    assert str(error.value) == (
        f"linear_cka needs features of the same 4 images or more, got {first} and {second}; "
        "feed both networks the same images."
    )
