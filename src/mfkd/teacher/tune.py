"""A new classifier on a frozen teacher: linear probing of its penultimate features."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mfkd.config import DataConfig
from mfkd.data import ImageData, eval_loader
from mfkd.errors import CheckpointError, ShapeError
from mfkd.models.weights import read_weights, save_weights
from mfkd.taps import find_taps
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.identity import hashed
from mfkd.types import UNLABELLED

ITERATIONS = 500


def tune_head(teacher: FrozenTeacher, data: ImageData, config: DataConfig, path: Path) -> None:
    """Replace the teacher's last linear layer by one fitted on the labelled training images.

    Multinomial logistic regression (scikit-learn, L2 with C=1) on standardised penultimate features
    of the images without augmentation; the standardisation is folded into the layer. The backbone
    does not move. The fitted layer is kept in `path` and read from there the next time.

    Raises:
        CheckpointError: the layer in `path` was fitted on another backbone, or for other classes.
        ShapeError: a network whose last linear layer cannot be found.
    """
    shape = (data.channels, *(data.size if teacher.image_size is None else (teacher.image_size,) * 2))
    spec = find_taps(teacher.network, shape).get("penultimate")
    head = teacher.network.get_submodule(spec.path) if spec is not None else None
    if spec is None or not isinstance(head, nn.Linear):
        raise ShapeError(
            "teacher.head=tune needs a teacher that ends in a linear layer, none was found; leave teacher.head=keep."
        )
    whole = teacher.network.state_dict()
    backbone = hashed(value for name, value in whole.items() if name.rpartition(".")[0] != spec.path)
    if path.exists():
        state, metadata = read_weights(path)
        fits = set(state) == {"weight", "bias"} and state["weight"].shape == (len(data.classes), head.in_features)
        if not fits or metadata.get("backbone") != backbone:
            raise CheckpointError(f"{path} does not fit this teacher and data; delete it to fit the classifier anew.")
    else:
        state = _fit(*_features(teacher, data, config), len(data.classes))
        save_weights(path, state, {"backbone": backbone})
    tuned = nn.Linear(head.in_features, len(data.classes))
    tuned.load_state_dict(state)
    tuned.to(head.weight.device, head.weight.dtype).requires_grad_(False)
    parent, _, name = spec.path.rpartition(".")
    setattr(teacher.network.get_submodule(parent), name, tuned)


@torch.no_grad()
def _features(teacher: FrozenTeacher, data: ImageData, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    shape = (data.channels, *(data.size if teacher.image_size is None else (teacher.image_size,) * 2))
    spec = find_taps(teacher.network, shape)["penultimate"]
    device = next(teacher.network.parameters()).device
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in eval_loader(data.train, data, config, batch_size=256, device=device):
        labelled = batch.label != UNLABELLED
        rows.append(teacher(batch.image, [spec]).taps["penultimate"][labelled].float().cpu())
        labels.append(batch.label[labelled].cpu())
    return torch.cat(rows).numpy(), torch.cat(labels).numpy()


def _fit(features: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Tensor]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    model = LogisticRegression(max_iter=ITERATIONS, tol=1e-3).fit(scaler.transform(features), labels)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -1e3)
    rows, offsets = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight[model.classes_] = rows / scaler.scale_
    bias[model.classes_] = offsets - (rows / scaler.scale_) @ scaler.mean_
    return {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}
