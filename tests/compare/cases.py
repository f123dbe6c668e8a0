"""Every loss that torchdistill has too, on the same random numbers; what is done to its numbers first, and why.

Nothing of torchdistill is copied. Where it departs from the paper, a correction stands beside its reason.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mfkd.functional.standardise import standardise
from mfkd.methods.ab import ab_loss
from mfkd.methods.at import at_loss
from mfkd.methods.cc import cc_loss
from mfkd.methods.crd import contrast, crd_loss
from mfkd.methods.dist import dist_loss
from mfkd.methods.fitnet import fitnet_loss
from mfkd.methods.fsp import fsp_loss
from mfkd.methods.ft import ft_loss
from mfkd.methods.ickd import ickd_loss
from mfkd.methods.kd import kd_loss
from mfkd.methods.pkt import pkt_loss
from mfkd.methods.reviewkd import reviewkd_loss
from mfkd.methods.rkd import rkd_loss
from mfkd.methods.sp import sp_loss
from mfkd.methods.vid import Variational, vid_loss
from mfkd.nn.factor import Paraphraser
from mfkd.nn.memory import ContrastMemory
from mfkd.nn.review import Fuse

TAP = {"io": "output", "path": "tap"}
PAIR = {"pair": {"student": TAP, "teacher": TAP}}
LOGITS = ("tap", "output", "tap", "output")


class Both(NamedTuple):
    """One quantity of both: ours, torchdistill's as it is, and torchdistill's after the correction."""

    ours: Tensor
    raw: Tensor
    corrected: Tensor
    inputs: Sequence[Tensor] = ()


class Draw:
    """Normal numbers in double precision from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, free: bool = False) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).requires_grad_(free)

    def labels(self, count: int, classes: int) -> Tensor:
        return torch.randint(classes, (count,), generator=self.generator)


class Library(NamedTuple):
    """The two modules of torchdistill that are compared."""

    losses: ModuleType
    parts: ModuleType


Compared = Callable[[Library, Draw], Iterator[Both]]


@dataclass
class Case:
    """One method of both.

    Args:
        method: ours.
        theirs: class of torchdistill.
        correction: what is done to its number before the comparison, and why; "" for nothing.
        note: what else was seen of it.
        tolerance: largest difference of values and gradients, relative to torchdistill's largest.
        compared: gives what is compared.
    """

    method: str
    theirs: str
    correction: str
    note: str
    tolerance: float
    compared: Compared

    @property
    def name(self) -> str:
        return f"{self.method} ({self.theirs})"


CASES: list[Case] = []
OTHERS = {
    "AuxSSKDLoss": "SSKD",
    "SSKDLoss": "SSKD",
    "PADL2Loss": "PAD",
    "KTALoss": "KTA",
    "AffinityLoss": "KTA",
    "SRDLoss": "SRD",
    "DISTPlusLoss": "DIST+",
    "SKDInstanceLoss": "SKD",
    "SKDDirectionLoss": "SKD",
    "RegularizationLoss": "",
}
"""torchdistill's other losses, and the method each belongs to, none of which is ours; "" is a norm of no method."""


def case(
    method: str, theirs: str, correction: str = "", note: str = "", tolerance: float = 1e-9
) -> Callable[[Compared], Compared]:
    """Register a comparison."""

    def add(compared: Compared) -> Compared:
        CASES.append(Case(method, theirs, correction, note, tolerance, compared))
        return compared

    return add


def io(**values: Any) -> dict[str, dict[str, Any]]:
    """torchdistill's form of a network's outputs."""
    return {name: {"output": value} for name, value in values.items()}


def same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> Both:
    return Both(ours, theirs, theirs, inputs)


def copied(source: nn.Module, target: nn.Module) -> None:
    """Give a module the parameters of another of the same form, in their order."""
    with torch.no_grad():
        for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
            ours.copy_(theirs)


@case(
    "kd",
    "KDLoss",
    note="with alpha=0 it leaves the factor T² out; without alpha and beta its constructor raises TypeError",
)
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher, labels = draw(8, 10, free=True), draw(8, 10), draw.labels(8, 10)
    loss = td.losses.KDLoss(*LOGITS, temperature=4.0, alpha=0.1)(io(tap=student), io(tap=teacher), labels)
    yield same(0.1 * F.cross_entropy(student, labels) + 0.9 * kd_loss(student, teacher, 4.0), loss, student)


@case("kd, logit_std", "LogitStdKDLoss", note="without alpha and beta its constructor raises TypeError")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher, labels = draw(8, 10, free=True), 3 * draw(8, 10), draw.labels(8, 10)
    theirs = td.losses.LogitStdKDLoss(*LOGITS, temperature=2.0, alpha=0.1, beta=9.0)
    loss = theirs(io(tap=student), io(tap=teacher), labels)
    ours = 0.1 * F.cross_entropy(student, labels) + 9 * kd_loss(standardise(student), standardise(teacher), 2.0)
    yield same(ours, loss, student)


@case("dist", "DISTLoss")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(8, 10, free=True), draw(8, 10)
    loss = td.losses.DISTLoss(*LOGITS, beta=2.0, gamma=2.0, tau=4.0)(io(tap=student), io(tap=teacher))
    yield same(dist_loss(student, teacher, 2.0, 2.0, 4.0), loss, student)


@case("fitnet", "SimpleLossWrapper", note="torch's MSELoss in its wrapper; regressors are left to the user there")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(4, 6, 5, 5, free=True), draw(4, 6, 5, 5)
    sides = {"input": (False, student), "target": (True, teacher)}
    told = {name: {"is_from_teacher": far, "module_path": "tap", "io": "output"} for name, (far, _) in sides.items()}
    loss = td.losses.SimpleLossWrapper(nn.MSELoss(), **told)(io(tap=student), io(tap=teacher), None)
    yield same(fitnet_loss(student, teacher), loss, student)


@case("at", "ATLoss", note="its mode `code`; the mode `paper` sums norms, as equation 2 of the paper does")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(4, 6, 5, 5, free=True), draw(4, 9, 5, 5)
    loss = td.losses.ATLoss(PAIR, mode="code")(io(tap=student), io(tap=teacher))
    yield same(at_loss(student, teacher), loss, student)


@case(
    "fsp",
    "FSPLoss",
    "the squared norm of each matrix over its size in place of the sum of its columns' norms: the paper's equation "
    "squares",
    note="of maps of one size; it pools the larger of two by maximum",
)
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student = [draw(4, 3, 6, 6, free=True), draw(4, 5, 6, 6, free=True)]
    teacher = [draw(4, 3, 6, 6), draw(4, 5, 6, 6)]
    pair = {f"{side}_{end}": {"io": "output", "path": end} for side in ("student", "teacher") for end in "ab"}
    pair = {key.replace("_a", "_first").replace("_b", "_second"): value for key, value in pair.items()}
    theirs = td.losses.FSPLoss({"pair": pair})
    raw = theirs(io(a=student[0], b=student[1]), io(a=teacher[0], b=teacher[1]))
    gap = theirs.compute_fsp_matrix(*student) - theirs.compute_fsp_matrix(*teacher)
    yield Both(fsp_loss(student, teacher), raw, gap.square().mean(), student)


@case("ft", "FTLoss", note="the paraphraser is compared too")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(4, 6, 5, 5, free=True), draw(4, 6, 5, 5)
    loss = td.losses.FTLoss(p=1)(io(translator=student), io(paraphraser=teacher))
    yield same(ft_loss(student, teacher), loss, student)
    theirs, maps = td.parts.Paraphraser4FactorTransfer(0.5, 8, uses_bn=False).double(), draw(2, 8, 5, 5)
    ours = Paraphraser(8, 4).double()
    copied(theirs, ours)
    yield same(ours.reconstruct(maps), theirs(maps))


@case("ab", "AltActTransferLoss")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = 2 * draw(4, 6, 5, 5), draw(4, 6, 5, 5)
    student.requires_grad_()
    loss = td.losses.AltActTransferLoss(PAIR, margin=1.0, reduction="mean")(io(tap=student), io(tap=teacher))
    yield same(ab_loss(student, teacher, 1.0), loss, student)


@case("vid", "VIDLoss", note="the predictor and the first variance are compared too")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(4, 3, 5, 5, free=True), draw(4, 6, 5, 5)
    theirs = td.parts.Regressor4VID(3, 6, 6, eps=1e-5, init_pred_var=5.0).double()
    ours = Variational(3, 6, 5.0).double()
    fresh = ours.scale.detach().clone()
    copied(theirs.regressor, ours.mean)
    yield same(fresh, theirs.soft_plus_param.double())
    loss = td.losses.VIDLoss(PAIR)(io(tap=theirs(student)), io(tap=teacher))
    yield same(vid_loss(*ours(student), teacher), loss, student)


@case("reviewkd", "HierarchicalContextLoss", note="the fusion of two levels is compared too")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(4, 6, 8, 8, free=True), draw(4, 6, 8, 8)
    loss = td.losses.HierarchicalContextLoss(*LOGITS)(io(tap=(student, None)), io(tap=teacher))
    yield same(reviewkd_loss(student, teacher), loss, student)
    theirs = td.parts.AttentionBasedFusion(3, 4, 6, uses_attention=True).double()
    ours, level, residual = Fuse(3, 4, 6, (8, 8), deepest=False).double(), draw(4, 3, 8, 8), draw(4, 4, 4, 4)
    copied(theirs, ours)
    yield from (same(a, b) for a, b in zip(ours(level, residual), theirs(level, residual, 8), strict=True))


@case(
    "sp", "SPKDLoss", "rows of length 1 by the 2-norm: its `normalize(x, 1)` asks for the 1-norm, not for dimension 1"
)
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(8, 6, 3, 3, free=True), draw(8, 9, 2, 2)
    theirs, given = td.losses.SPKDLoss("tap", "tap", "batchmean"), (io(tap=student), io(tap=teacher))
    raw = theirs(*given)
    with patch.object(td.losses, "normalize", lambda matrix, _: F.normalize(matrix, p=2.0, dim=1)):
        yield Both(sp_loss(student, teacher), raw, theirs(*given), (student,))


@case("pkt", "PKTLoss", note="adds 1e-7 to each length, as the authors' code does", tolerance=1e-5)
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(8, 6, free=True), draw(8, 9)
    loss = td.losses.PKTLoss(*LOGITS)(io(tap=student), io(tap=teacher))
    yield same(pkt_loss(student, teacher), loss, student)


@case("rkd", "RKDLoss")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(8, 6, free=True), draw(8, 9)
    loss = td.losses.RKDLoss("tap", "tap", 25.0, 50.0, "mean")(io(tap=student), io(tap=teacher))
    yield same(rkd_loss(student, teacher, 25.0, 50.0), loss, student)


@case(
    "cc, kernel=gaussian",
    "CCKDLoss",
    "unit vectors go in, and the norm is squared before it is divided by B²: its kernel takes |x| = 1 for granted, "
    "and the paper's equation squares",
)
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(8, 6, free=True), draw(8, 6)
    theirs = td.losses.CCKDLoss("tap", "tap", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, "batchmean")
    raw = theirs(io(tap=student), io(tap=teacher))
    unit = theirs(io(tap=F.normalize(student)), io(tap=F.normalize(teacher)))
    yield Both(cc_loss(student, teacher, "gaussian", 0.4), raw, unit.square() * len(student) ** 2, (student,))


@case("ickd", "ChSimLoss", "times B: it divides by the batch twice, where the paper takes its mean")
def _(td: Library, draw: Draw) -> Iterator[Both]:
    student, teacher = draw(4, 6, 5, 5, free=True), draw(4, 6, 3, 3)
    raw = td.losses.ChSimLoss(PAIR)(io(tap=student), io(tap=teacher))
    yield Both(ickd_loss(student, teacher), raw, raw * len(student), (student,))


@case(
    "crd",
    "CRDLoss",
    note="the negatives are given to it: drawing them itself raises AttributeError (`self.prob` for `self.probs`); its "
    "guard of 1e-7 in the logarithms is the difference",
    tolerance=1e-5,
)
def _(td: Library, draw: Draw) -> Iterator[Both]:
    rows, width, count = 40, 6, 12
    memory = ContrastMemory(draw.labels(rows, 3), width, count, 0.5).double()
    index = torch.randperm(rows, generator=draw.generator)[:8]
    student, teacher = (F.normalize(draw(8, width)) for _ in range(2))
    student.requires_grad_()
    theirs = td.losses.CRDLoss("tap", "supplement", "tap", width, rows, memory.drawn, rows).double()
    theirs.memory_v1.copy_(memory.student)
    theirs.memory_v2.copy_(memory.teacher)
    drawn, _ = memory.draw(index)
    supplement = {"supplement": {"input": {"pos_idx": index, "contrast_idx": drawn}}}
    loss = theirs({**io(tap=student), **supplement}, io(tap=teacher))
    scores = torch.stack((contrast(student, memory.teacher, drawn), contrast(teacher, memory.student, drawn)))
    log_z = memory.normaliser(scores)
    memory.update(index, student, teacher)
    yield same(crd_loss(scores[0], log_z[0]) + crd_loss(scores[1], log_z[1]), loss.squeeze(), student)
    yield same(memory.student, theirs.memory_v1)
    yield same(memory.teacher, theirs.memory_v2)
