"""Knowledge read from disk in place of the teacher, by (view, source row)."""

import torch
from torch import Tensor

from mfkd.errors import CacheError, ConfigError
from mfkd.methods.objective import Objective
from mfkd.teacher.identity import LOGITS
from mfkd.teacher.source import Source
from mfkd.teacher.store import Store
from mfkd.types import Batch, Knowledge


class CachedSource:
    """Stands in for a `LiveSource` whose knowledge was computed before.

    Args:
        store: complete knowledge; may hold more than is wanted.
        names: tensors that are wanted.
        rows: (N,) source rows of the training split, in its order.
        objective: knows whose weight has faded out, so that its own tensors need not be read any more.
        live: answers what is not kept: raw taps for a preparation.
    """

    def __init__(self, store: Store, names: list[str], rows: Tensor, objective: Objective, live: Source) -> None:
        self.store, self.names, self.objective, self.live = store, names, objective, live
        # One past the largest row stands for all rows that the split does not have.
        self.positions = torch.full((int(rows.max()) + 2,), -1)
        self.positions[rows.cpu()] = torch.arange(len(rows))

    def raw(self, batch: Batch) -> Knowledge:
        """Logits and raw taps of the network itself."""
        return self.live.raw(batch)

    def ahead(self, batch: Batch) -> Knowledge:
        """As `knowledge`: one gather a tensor, and copies that the GPU need not wait for."""
        return self.knowledge(batch)

    def knowledge(self, batch: Batch) -> Knowledge:
        """What belongs to these very pixels, in the dtype of the images.

        Raises:
            CacheError: a batch of unknown view, a view or an image that is not kept.
        """
        view, views = batch.view, self.store.manifest.views
        if view is None or view >= views:
            raise CacheError(
                f"knowledge cache {self.store.folder} holds views 0 to {views - 1}, got a batch of view {view}; "
                f"feed it from train_loader(..., views={views})."
            )
        index = batch.index.cpu() if batch.host_index is None else batch.host_index
        positions = self.positions[index.clamp(-1, len(self.positions) - 1)]
        if len(positions) and int(positions.min()) < 0:
            raise CacheError(
                f"knowledge cache {self.store.folder} does not know the image of row {int(index[positions.argmin()])}; "
                "it was made for another training split."
            )
        device, found = batch.image.device, {}
        resting = {name for name, _ in self.objective.named() if self.objective.resting(name)}
        for name in self.names:
            if name.partition("/")[0] in resting:  # what a method makes is named after it
                continue
            kept = self.store.read(name, view, positions, pin=device.type == "cuda")
            found[name] = kept.to(device, non_blocking=True).to(batch.image.dtype)
        return Knowledge(found.pop(LOGITS, None), found)


def check_cacheable(objective: Objective) -> None:
    """Refuse a method whose knowledge changes.

    Raises:
        ConfigError: names the method and says why.
    """
    for name, method in objective.named():
        if method.not_cached:
            raise ConfigError(f"cache.views: {name} cannot be cached, {method.not_cached}; set cache.views=null.")


def tensors(knowledge: Knowledge) -> dict[str, Tensor]:
    """All that is to be kept, by name."""
    return {**({} if knowledge.logits is None else {LOGITS: knowledge.logits}), **knowledge.taps}
