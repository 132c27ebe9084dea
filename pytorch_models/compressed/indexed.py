"""A data loader that says which samples a batch holds, so that compression can tell samples apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset


class IndexedDataset(Dataset):
    """A dataset whose items come with their indices.

    Example:
        >>> IndexedDataset(["a", "b"])[1]
        (1, 'b')
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)


class IndexedLoader:
    """Batches of a dataset, as `torch.utils.data.DataLoader` makes them; tells a compressed model their indices.

    ActNN's `use_gradient`: every sample's gradient norm is remembered, and decides its bits when it comes again.

    Args:
        model: compressed with `num_samples=len(dataset)`.
        dataset: with a length.
        options: of `DataLoader`; a `collate_fn` of one's own gets the items without their indices.

    Raises:
        ValueError: a model that was compressed without `num_samples`, or with another number.

    Example:
        >>> import torch
        >>> from pytorch_models.compressed import compress
        >>> model = compress(nn.Sequential(nn.Linear(4, 2)), "L3", num_samples=6)
        >>> [tuple(batch.shape) for batch in IndexedLoader(model, torch.randn(6, 4), batch_size=4)]
        [(4, 4), (2, 4)]
    """

    def __init__(self, model: nn.Module, dataset: Any, **options: Any) -> None:
        self.compression: Any = getattr(model, "compression", None)
        samples = getattr(self.compression, "samples", 0)
        if samples != len(dataset):
            raise ValueError(
                f"IndexedLoader: the model was compressed with num_samples={samples}, the dataset has {len(dataset)}: "
                f"compress(model, num_samples={len(dataset)})"
            )
        collate = options.pop("collate_fn", None)
        if collate is not None:
            options["collate_fn"] = _WithIndices(collate)
        self.loader = DataLoader(IndexedDataset(dataset), **options)

    def __iter__(self) -> Iterator[Any]:
        for indices, batch in self.loader:
            self.compression.set_indices(indices)
            yield batch
        self.compression.set_indices(None)

    def __len__(self) -> int:
        return len(self.loader)


class _WithIndices:
    """Collates items without their indices; a class, so that worker processes can be given it."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[list[int], Any]:
        return [index for index, _ in items], self.collate([item for _, item in items])
