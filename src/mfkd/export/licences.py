"""What is known of the licences that an exported network inherits something from.

Those of pretrained weights are told by the libraries that carry them, see `models.adapters.licence`.
"""

from pathlib import Path

from mfkd.config import ModelConfig, RunConfig
from mfkd.models.adapters import licence

UNKNOWN = "not known"
# digits: the part of UCI's data set 80 that scikit-learn carries; UCI licenses what is donated to it so,
#   https://archive-beta.ics.uci.edu/donation, point 4 (a copy at huggingface.co/datasets/sklearn-docs/digits says CC0).
# fashion_mnist: https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE, by way of
#   https://www.tensorflow.org/versions/r1.15/api_docs/python/tf/keras/datasets/fashion_mnist/load_data.
# Not here: CIFAR, whose card at https://huggingface.co/datasets/uoft-cs/cifar10 says "unknown".
DATA = {
    "digits": "CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI Machine Learning Repository)",
    "fashion_mnist": "MIT (Zalando SE)",
}
"""As their publishers state them; of all other data nothing is known."""


def of_data(name: str) -> str:
    """Of a data set by `data.name`."""
    return DATA.get(name, UNKNOWN)


def of_start(config: ModelConfig, trained: str) -> str:
    """Of the weights that a network started from, or was taken from; `trained` where it had none."""
    if config.weights is not None:
        return f"{UNKNOWN} (file {Path(config.weights).name})"
    if config.options.get("pretrained"):
        told = licence(config.model)
        return f"{told or UNKNOWN} (pretrained weights of {shown(config.model)})"
    return trained


def inherited(config: RunConfig, kind: str) -> dict[str, str]:
    """What a network was made from, each with its licence; `kind` as in `RunRecord`."""
    here = "none beyond that of the data (trained in this run from random weights)"
    found = {f"data {shown(config.data.name)}": of_data(config.data.name)}
    if config.data.unlabelled is not None:
        found["images without labels"] = UNKNOWN
    if kind == "distilled":
        for teacher in config.named_teachers.values():
            found[f"teacher {shown(teacher.model)}"] = of_start(teacher, here)
    own = config.teacher if kind == "teacher" else config.student
    found[f"first weights of {shown(own.model)}"] = of_start(own, "none (random)")
    return found


def shown(name: str) -> str:
    """The name of a data set or network without the folders of this machine."""
    source, colon, place = name.partition(":")
    if colon and source in ("folder", "parquet", "local-dir"):
        return f"{source}:{Path(place).name}"
    if ".py:" in name:
        return Path(name).name
    return name
