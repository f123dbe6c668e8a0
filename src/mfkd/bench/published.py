"""Top-1 that others published for CIFAR-100, to be shown beside ours and never to be computed with.

Sources: RepDistiller's README (b84f547), mdistiller's (a08d46f), logit-standardization-KD's, MLKD's, and the
abstract of MFKD, which gives gains alone and does not say which teachers it used.
"""

import re
from dataclasses import dataclass

PAIRS = (
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
)
# One column a pair, in the order of PAIRS.
REPDISTILLER = """
teacher 72.34 74.31 74.31 79.42 74.64 75.61 75.61 74.64 79.34 79.42 79.42
none    69.06 69.06 71.14 72.50 70.36 73.26 71.98 64.60 64.60 70.50 71.82
kd      70.66 70.67 73.08 73.33 72.98 74.92 73.54 67.37 67.35 74.07 74.45
fitnet  69.21 68.99 71.06 73.50 71.02 73.58 72.24 64.14 63.16 73.59 73.54
at      70.55 70.22 72.31 73.44 71.43 74.08 72.77 59.40 58.58 71.73 72.73
sp      69.67 70.04 72.69 72.94 72.68 73.83 72.43 66.30 68.08 73.48 74.56
cc      69.63 69.48 71.48 72.97 70.71 73.56 72.21 64.86 65.43 71.14 71.29
vid     70.38 70.16 72.61 73.09 71.23 74.11 73.30 65.56 67.57 73.38 73.40
rkd     69.61 69.25 71.82 71.90 71.48 73.35 72.22 64.52 64.43 72.28 73.21
pkt     70.34 70.25 72.61 73.64 72.88 74.54 73.45 67.13 66.52 74.10 74.69
ab      69.47 69.53 70.98 73.17 70.94 72.50 72.38 66.06 67.20 73.55 74.31
ft      69.84 70.22 72.37 72.86 70.58 73.25 71.59 61.78 60.99 71.75 72.50
fsp     69.95 70.11 71.89 72.62 70.23 72.91 -     -     -     -     -
nst     69.60 69.53 71.96 73.30 71.53 73.68 72.24 58.16 64.96 74.12 74.68
crd     71.16 71.46 73.48 75.51 73.94 75.48 74.14 69.73 69.11 75.11 75.65
"""
MDISTILLER = """
dkd     71.97 -     74.11 76.32 74.68 76.23 74.81 69.71 70.35 76.45 77.07
"""
STANDARDISED = """
dkd     -     71.06 -     -     -     -     -     -     -     -     -
kd+std  71.43 71.48 74.17 76.62 74.36 76.11 74.37 68.61 69.02 -     75.56
dkd+std 72.32 71.85 74.29 77.01 74.81 76.39 74.89 69.98 70.45 -     77.37
"""
MLKD = """
mlld    72.19 -     -     -     75.18 -     -     -     -     -     -
"""
GAINS = {"resnet20": 1.82, "vgg8": 3.35}
"""Points over the student alone that the abstract of MFKD tells."""

LONG = "240 epochs, batch 64, all 50,000 training images"


@dataclass(frozen=True)
class Quote:
    """A figure of others.

    Args:
        top1: per cent; None where a gain alone is told.
        gain: points over the student alone of the same source; None for that student itself.
        source: whose.
        protocol: how it was obtained.
    """

    top1: float | None
    gain: float | None
    source: str
    protocol: str


SOURCES = (
    (REPDISTILLER, "RepDistiller's README", f"{LONG}, last epoch"),
    (MDISTILLER, "mdistiller's README", f"{LONG}, best test epoch, mean of 5 runs"),
    (STANDARDISED, "logit-standardization-KD's README", f"{LONG}, best test epoch"),
    (MLKD, "the paper of MLKD", "480 epochs, rate 0.025, strong augmentation"),
)


def quoted(data: str, teacher: str, student: str) -> dict[str, Quote]:
    """What was published for a pair, by the names that methods have here; `none` is the student alone.

    Args:
        data: `data.name` of the recipe; all figures are of CIFAR-100.
        teacher: its model.
        student: its model.
    """
    if "cifar100" not in re.sub(r"[-_ ]", "", data.casefold()) or (teacher, student) not in PAIRS:
        return {}
    column = PAIRS.index((teacher, student))
    alone = _rows(REPDISTILLER, column)["none"]
    found = {
        name: Quote(value, None if name in ("none", "teacher") else round(value - alone, 2), source, protocol)
        for text, source, protocol in SOURCES
        for name, value in _rows(text, column).items()
    }
    if student in GAINS:
        found["mfkd"] = Quote(
            None, GAINS[student], "the abstract of MFKD", "not told in the abstract, nor which teacher"
        )
    return found


def _rows(text: str, column: int) -> dict[str, float]:
    rows = (line.split() for line in text.strip().splitlines())
    return {name: float(values[column]) for name, *values in rows if values[column] != "-"}
