"""Which BatchNorm made the map of a tap."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from mfkd.errors import ShapeError
from mfkd.taps.probe import InputShape, dry_run
from mfkd.taps.reader import pick
from mfkd.types import TapSpec

_NEW_MAP = ("convolution", "mm", "norm")
"""Parts of the names of graph nodes behind which another map begins: its BatchNorm says nothing of this one."""


def batchnorm_before(model: nn.Module, input_shape: InputShape, spec: TapSpec) -> nn.BatchNorm2d | None:
    """The BatchNorm whose weight and bias are the deviation and mean of a tap's channels, or nearly so.

    Between it and the tap stand no convolution, no linear layer and no other norm; additions, activations
    and pooling may. Of several, as at the end of a residual block, it is the one with the most layers
    before it, so that of the main path and never the shortcut's; of equally deep ones the last that ran.

    Args:
        model: the network, which stays as it is.
        input_shape: (C, H, W) of its images.
        spec: a tap of that network.

    Returns:
        The module itself, affine and with as many channels as the tap; None where there is none: a
        transformer, the raw sums of a pre-activation network (the output of a WRN's block, made by a
        convolution), a main path that ends in several narrower ones (ShuffleNetV2, GhostNet).

    Raises:
        ShapeError: the tap's module does not run; or see `dry_run`.

    Example:
        >>> from mfkd.models import build_model
        >>> from mfkd.taps import find_taps
        >>> model = build_model("resnet8", num_classes=10)
        >>> batchnorm_before(model, (3, 32, 32), find_taps(model, (3, 32, 32))["stage2.pre"]) is model.layer2[0].bn2
        True
    """
    tap, norms = _trace(model, input_shape, spec)
    depth = _depths(tap)
    ran = {node: number for number, node in enumerate(norms)}
    last = max(_made_of(tap, norms), key=lambda node: (depth[node], ran[node]), default=None)
    norm = None if last is None else norms[last]
    return norm if norm is not None and norm.affine and norm.num_features == spec.channels else None


def _trace(model: nn.Module, input_shape: InputShape, spec: TapSpec) -> tuple[Node, dict[Node, nn.BatchNorm2d]]:
    """The graph node of the tap's tensor, and those of all BatchNorms in the order in which they ran."""
    norms: dict[Node, nn.BatchNorm2d] = {}
    taps: list[Node] = []

    def keep(value: Any) -> None:
        # Noted at once: an activation in place would give the tensor another node.
        tensor = pick(value, spec.item)
        if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
            taps.append(tensor.grad_fn)

    def norm(module: nn.BatchNorm2d, _: object, output: Tensor) -> None:
        if output.grad_fn is not None:
            norms[output.grad_fn] = module

    handles = [m.register_forward_hook(norm) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    module = model.get_submodule(spec.path)
    if spec.side == "input":
        handles.append(
            module.register_forward_pre_hook(lambda _, args, kw: keep((*args, *kw.values())), with_kwargs=True)
        )
    else:
        handles.append(module.register_forward_hook(lambda _, __, output: keep(output)))
    try:
        with dry_run(model, input_shape) as image, torch.enable_grad():
            model(image.requires_grad_().clone())
    finally:
        for handle in handles:
            handle.remove()
    if not taps:
        raise ShapeError(
            f"tap {spec.name!r} was not reached: the forward pass never ran module {spec.path!r}; "
            "name a module that it runs."
        )
    return taps[-1], norms


def _made_of(tap: Node, norms: Mapping[Node, nn.BatchNorm2d]) -> Iterator[Node]:
    """Nodes of BatchNorms that are reached from the tap without passing what begins another map."""
    seen, todo = {tap}, [tap]
    while todo:
        node = todo.pop()
        if node in norms:
            yield node
        elif not any(part in node.name().lower() for part in _NEW_MAP):
            before = {source for source, _ in node.next_functions if source is not None} - seen
            seen |= before
            todo += before


def _depths(tap: Node) -> dict[Node, int]:
    """Steps of the longest way to each node from the image or a weight."""
    depths: dict[Node, int] = {}
    todo = [tap]
    while todo:
        before = [source for source, _ in todo[-1].next_functions if source is not None]
        missing = [source for source in before if source not in depths]
        if missing:
            todo += missing
        else:
            depths[todo.pop()] = 1 + max((depths[source] for source in before), default=0)
    return depths
