"""Folds each BatchNorm of a frozen network into the convolution that feeds it.

A BatchNorm in eval is an affine map of each channel, and so is what follows a convolution's sums:
both become one convolution with other weights and a bias.

Source:   torch.nn.utils.fusion gives the weights; which pairs may be folded is found here.
"""

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mfkd.taps.probe import InputShape, dry_run
from mfkd.taps.reader import TapReader, read, tensors
from mfkd.types import TapSpec

TOLERANCE = 1e-4
"""Largest gap that is put down to rounding, as a share of a tensor's largest value; a wrong pair is far above."""


def fold(network: nn.Module, input_shape: InputShape, specs: Iterable[TapSpec] = ()) -> nn.Module | None:
    """A copy that gives the same logits and taps with fewer layers.

    A folded BatchNorm becomes the identity, so that module paths, and taps that are read at it, stay.
    The copy is compared with the network on random images, and thrown away if it answers otherwise.

    Args:
        network: in eval, on any device, in float32 or float64; not changed.
        input_shape: (C, H, W) of its images.
        specs: taps that must stay as they are; no other one may be read from the copy.

    Returns:
        The copy; None where nothing can be folded.
    """
    specs = tuple(specs)
    found = pairs(network, input_shape, specs)
    if not found:
        return None
    try:
        folded = copy.deepcopy(network)
    except (RuntimeError, TypeError, copy.Error):  # such as tensors that are kept outside of parameters
        return None
    for conv_path, norm_path in found:
        conv, norm = folded.get_submodule(conv_path), folded.get_submodule(norm_path)
        _into(conv, norm)
        folded.set_submodule(norm_path, _rest(norm))
    folded.requires_grad_(False)
    return folded if _agree(network, folded, input_shape, specs) else None


@torch.no_grad()
def pairs(network: nn.Module, input_shape: InputShape, specs: Iterable[TapSpec] = ()) -> list[tuple[str, str]]:
    """Paths of convolutions with the BatchNorm that alone reads what they give, told by one dry run.

    Left out are modules that run several times, that have hooks of their own, and convolutions whose
    own output is a tap.
    """
    plain = {p: m for p, m in network.named_modules() if not (m._forward_hooks or m._forward_pre_hooks)}
    convs = {path: module for path, module in plain.items() if _is_conv(module)}
    norms = {path: module for path, module in plain.items() if _is_norm(module)}
    given: dict[str, Tensor] = {}
    got: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()
    nodes: dict[str, Node | None] = {}

    def after(path: str, output: Any) -> None:
        runs[path] += 1
        if isinstance(output, Tensor):
            given[path], nodes[path] = output, output.grad_fn

    def before(path: str, args: tuple[Any, ...]) -> None:
        runs[path] += 1
        if args and isinstance(args[0], Tensor):
            got[path] = args[0]

    handles = [m.register_forward_hook(lambda _, __, out, path=p: after(path, out)) for p, m in convs.items()]
    handles += [m.register_forward_pre_hook(lambda _, args, path=p: before(path, args)) for p, m in norms.items()]
    try:
        with dry_run(network, input_shape) as image, TapReader(network, specs) as reader, torch.enable_grad():
            logits = network(image.requires_grad_().clone())
            seen = [tensor for value in reader.raw.values() for tensor in tensors(value)]
    finally:
        for handle in handles:
            handle.remove()
    users = _users([logits, *seen])
    taps = {id(tensor) for tensor in seen}
    makers = {id(tensor): path for path, tensor in given.items()}
    found = [(makers[id(tensor)], path) for path, tensor in got.items() if id(tensor) in makers]
    return [
        (conv, norm)
        for conv, norm in found
        if runs[conv] == runs[norm] == 1 and users[nodes[conv]] == 1 and id(given[conv]) not in taps
    ]


def _users(results: Iterable[Any]) -> Counter[Node | None]:
    """How many operations read what each node of the graph behind some tensors gave."""
    todo = [tensor.grad_fn for tensor in results if isinstance(tensor, Tensor) and tensor.grad_fn is not None]
    seen, users = set(todo), Counter[Node | None]()
    while todo:
        sources = [source for source, _ in todo.pop().next_functions if source is not None]
        users.update(sources)
        fresh = set(sources) - seen
        seen |= fresh
        todo += fresh
    return users


def _is_conv(module: nn.Module) -> bool:
    # Other subclasses may do something to their weight first; timm's Conv2dSame only pads.
    known = type(module) is nn.Conv2d or type(module).__name__ == "Conv2dSame"
    return known and "weight" in module._parameters and "bias" in module._parameters


def _is_norm(module: nn.Module) -> bool:
    # timm's BatchNormAct2d applies its parts `drop` and `act` after the norm.
    known = type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"
    return known and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def _rest(norm: nn.Module) -> nn.Module:
    """What is left of a BatchNorm."""
    parts = OrderedDict(norm.named_children())
    return nn.Sequential(parts) if parts else nn.Identity()


def _into(conv: nn.Module, norm: nn.Module) -> None:
    """Give a convolution the weights of itself and its BatchNorm, worked out in float64."""
    kind = conv.weight.dtype
    values = [conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias]
    exact: list[Any] = [value.double() if isinstance(value, Tensor) else value for value in values]
    weight, bias = fuse_conv_bn_weights(*exact)
    conv.weight, conv.bias = nn.Parameter(weight.to(kind)), nn.Parameter(bias.to(kind))  # type: ignore[arg-type]


@torch.no_grad()
def _agree(network: nn.Module, folded: nn.Module, input_shape: InputShape, specs: tuple[TapSpec, ...]) -> bool:
    with dry_run(network, input_shape) as zero:
        image = random_images(zero, input_shape)
        # TF32, a GPU's default for convolutions, rounds ten times as much as is allowed for here.
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            answers = [read(one, image, specs) for one in (network, folded)]
    before, after = ([outputs.logits, *outputs.taps.values()] for outputs in answers)
    return all((a - b).abs().max() <= TOLERANCE * b.abs().max() for a, b in zip(after, before, strict=True))


def random_images(like: Tensor, input_shape: InputShape) -> Tensor:
    """(2, C, H, W), the same each time."""
    drawn = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(like.device, like.dtype)
