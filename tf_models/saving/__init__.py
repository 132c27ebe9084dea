"""Exact ways to keep less for the backward pass; every one has a gradient of its own, written out."""

from tf_models.saving.chain import Step, StepValues, chain
from tf_models.saving.dense_block import DenseLayer, DenseLayerValues, dense_block

__all__ = ["DenseLayer", "DenseLayerValues", "Step", "StepValues", "chain", "dense_block"]
