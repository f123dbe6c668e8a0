import pytest

from mfkd.bench.published import PAIRS, SOURCES, quoted
from mfkd.methods import METHODS
from mfkd.models import model_names


@pytest.mark.parametrize(
    ("pair", "method", "top1", "gain"),
    [
        (("resnet56", "resnet20"), "kd", 70.66, 1.60),
        (("vgg13", "vgg8"), "kd", 72.98, 2.62),
        (("resnet32x4", "ShuffleV2"), "dkd+std", 77.37, 5.55),
        (("resnet110", "resnet20"), "dkd", 71.06, 2.00),
        (("wrn_40_2", "wrn_40_1"), "fsp", None, None),
        (("vgg13", "vgg8"), "mlld", 75.18, 4.82),
        (("vgg13", "vgg8"), "mfkd", None, 3.35),
        (("resnet56", "resnet20"), "mfkd", None, 1.82),
    ],
)
def test_figures_and_gains_over_the_same_source(pair, method, top1, gain):
    quote = quoted("cifar100", *pair).get(method)
    assert (quote and quote.top1, quote and quote.gain) == (top1, gain)


def test_every_figure_says_whose_it_is_and_how_it_was_made():
    for quote in quoted("parquet:../CIFAR-100", "resnet56", "resnet20").values():
        assert quote.source
        assert quote.protocol
    found = quoted("cifar100", "resnet56", "resnet20")
    assert "last epoch" in found["kd"].protocol
    assert "best test epoch" in found["dkd"].protocol
    assert found["none"].gain is None


def test_other_data_and_pairs_have_no_figures():
    assert quoted("digits", "resnet56", "resnet20") == {}
    assert quoted("cifar10", "resnet56", "resnet20") == {}
    assert quoted("cifar100", "resnet56", "resnet8") == {}


def test_names_are_those_of_the_zoo_and_the_methods():
    assert {name for pair in PAIRS for name in pair} <= set(model_names())
    rows = {line.split()[0] for text, _, _ in SOURCES for line in text.strip().splitlines()}
    assert {name.removesuffix("+std") for name in rows} - {"teacher", "none"} <= set(METHODS)
    assert all(len(line.split()) == len(PAIRS) + 1 for text, _, _ in SOURCES for line in text.strip().splitlines())
