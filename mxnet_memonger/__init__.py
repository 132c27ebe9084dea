"""The zoo's models as MXNet Symbols, and memonger: plans that train them, or any Symbol, in less memory."""

from mxnet_memonger import memonger
from mxnet_memonger.densenet import DenseNet
from mxnet_memonger.memonger import mirror
from mxnet_memonger.resnet import ResNet

__all__ = ["DenseNet", "ResNet", "memonger", "mirror"]
