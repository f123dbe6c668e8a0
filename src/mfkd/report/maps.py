"""What the fusion sees: maps of the levels, the fused maps, and the weights of the levels.

Shapes: B images; L levels; C channels; h, w of a map; H, W of the image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.distill import Distiller
from mfkd.errors import MfkdError
from mfkd.methods.mfkd import MFKD
from mfkd.models.weights import read_weights
from mfkd.nn.fuse import Attention, Fusion
from mfkd.report.folder import RunFolder
from mfkd.report.networks import Networks
from mfkd.taps.choose import TapsOf
from mfkd.taps.reader import read
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.train.checkpoint import load_checkpoint
from mfkd.train.shared import PREPARED
from mfkd.types import Outputs, Taps, TapSpec

LEVELS = ("front", "middle", "bottom")
SIDES = ("teacher", "student")
WHERE = {
    "teacher": f"it is kept in {PREPARED} and in the checkpoint",
    "student": "it is kept in the checkpoint alone",
}
Fuse = Callable[[Sequence[Tensor]], Tensor]


@dataclass
class Look:
    """How maps of both sides are read.

    Args:
        seed: of the distilled student.
        taps: names of the levels, by side.
        fuse: from the maps of the levels to the fused one, by side; a side without is left out.
        weigh: from the maps to the weights of the levels (B, L, h, w), by side.
        said: what could not be had and why, in sentences.
    """

    seed: int
    taps: dict[str, tuple[str, ...]]
    fuse: dict[str, Fuse] = field(default_factory=dict)
    weigh: dict[str, Fuse] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def open_look(folder: RunFolder, networks: Networks) -> Look | None:
    """The fusion of a run as training has left it; maps alone where the method fuses nothing.

    Returns:
        None without any distilled student.
    """
    seed = next(iter(networks.students["distilled"]), None)
    if seed is None:
        return None
    options = folder.distilled[seed].method.get("mfkd")
    look = Look(seed, dict.fromkeys(SIDES, LEVELS))
    if options is None:
        look.said.append("The method of this run fuses no maps; these are the levels as the networks give them.")
        return look
    if networks.teacher is None:
        look.said.append("Without the teacher its fusion cannot be built; these are the student's levels alone.")
        return look
    try:
        distiller = Distiller(
            networks.teacher, networks.students["distilled"][seed], {"mfkd": options}, input_shape=networks.shape
        )
    except MfkdError as error:
        look.said.append(f"The fusion could not be built again: {error}")
        return look
    method = next(method for _, method in distiller.objective.named() if isinstance(method, MFKD))
    method.eval()
    look.taps = {"teacher": method.needs.teacher, "student": method.needs.student}
    objective, kept = distiller.objective, _kept(folder, networks, seed, look.said)
    for side, part in (("teacher", method.teacher_side.fusion), ("student", method.student_side)):
        prefix = f"methods.mfkd.{side}_side."
        if not {name for name in objective.state_dict() if name.startswith(prefix)} <= kept.keys():
            look.said.append(f"The fused map of the {side} is left out: {WHERE[side]}, which is not there any more.")
            continue
        objective.load_state_dict({name: kept[name] for name in kept if name.startswith(prefix)}, strict=False)
        look.fuse[side] = part
        if isinstance(part, Fusion) and isinstance(part.mix, Attention):
            look.weigh[side] = part.attention
    return look


@torch.no_grad()
def stages(network: nn.Module, images: Tensor, names: Sequence[str], shape: tuple[int, int, int]) -> Taps:
    """Some maps of a network, teacher or student, by name."""
    known = _known(network, shape)
    specs = [known[name] for name in names]
    found: Outputs = network(images, specs) if isinstance(network, FrozenTeacher) else read(network, images, specs)
    return found.taps


def names_of_stages(network: nn.Module, shape: tuple[int, int, int]) -> list[str]:
    """`stage1` and so on, front first."""
    return [name for name in _known(network, shape) if name.rpartition(".")[2].removeprefix("stage").isdigit()]


def heat(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Where a map is strong.

    Args:
        maps: (B, C, h, w).
        size: (H, W) of the picture.

    Returns:
        (B, H, W) root mean square over the channels, from 0 (the weakest place of this map) to 1 (the strongest).
    """
    strength = maps.float().square().mean(1, keepdim=True).sqrt()
    low, high = strength.amin((2, 3), keepdim=True), strength.amax((2, 3), keepdim=True)
    scaled = (strength - low) / (high - low).clamp(min=1e-12)
    return F.interpolate(scaled, size=size, mode="bilinear").squeeze(1)


def place(heat: Tensor) -> str:
    """In words where a picture (H, W) is strongest, for those who do not see it."""
    height, width = heat.shape
    row, column = divmod(int(heat.argmax()), width)
    down, across = ("top", "middle", "bottom")[3 * row // height], ("left", "centre", "right")[3 * column // width]
    share = float((heat > 0.5).float().mean())
    where = "the centre" if (down, across) == ("middle", "centre") else f"the {down} {across}"
    return f"strongest at {where}, over half its peak on {100 * share:.0f}% of the image"


def by_class(weights: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, L) weights of the levels to their mean in each class, (K, L); NaN for a class without images."""
    which = F.one_hot(labels, classes).double()
    return which.T @ weights.double() / which.sum(0)[:, None]


def _known(network: nn.Module, shape: tuple[int, int, int]) -> Mapping[str, TapSpec]:
    return network.taps(shape) if isinstance(network, FrozenTeacher) else TapsOf(network, shape)


def _kept(folder: RunFolder, networks: Networks, seed: int, said: list[str]) -> dict[str, Tensor]:
    """What the run folder holds of the fusion, by the names of the objective's state dict."""
    kept: dict[str, Tensor] = {}
    checkpoint, prepared = networks.plan.student_job("distilled", seed).checkpoint, folder.path / "distilled" / PREPARED
    try:
        saved = load_checkpoint(checkpoint)
        kept |= {name.removeprefix("objective."): value for name, value in (saved or {"model": {}})["model"].items()}
    except MfkdError as error:
        said.append(f"The last checkpoint cannot be read: {error}")
    try:
        kept |= read_weights(prepared)[0] if prepared.is_file() else {}
    except MfkdError as error:
        said.append(f"The calibration cannot be read: {error}")
    return kept
