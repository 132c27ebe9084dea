"""The zoo's models in PyTorch: `from pytorch_models import DenseNet`."""

from pytorch_models.densenet import DenseNet

__all__ = ["DenseNet"]
