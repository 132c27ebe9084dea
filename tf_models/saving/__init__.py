"""Ways to keep less for the backward pass, exact or in codes; every one has a gradient of its own, written out."""

from tf_models.saving.chain import chain
from tf_models.saving.coded import Coder
from tf_models.saving.dense_block import dense_block
from tf_models.saving.dense_layers import DenseLayer, DenseLayerValues
from tf_models.saving.steps import Step, StepValues

__all__ = ["Coder", "DenseLayer", "DenseLayerValues", "Step", "StepValues", "chain", "dense_block"]
