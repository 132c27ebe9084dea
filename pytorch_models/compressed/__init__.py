"""Compressed training for any PyTorch model: ActNN's layers, GACT's hooks, AC-GC's schemes."""

from pytorch_models.compressed.convert import QModule, compress
from pytorch_models.compressed.gact import Controller, gact
from pytorch_models.compressed.indexed import IndexedLoader
from pytorch_models.compressed.layers import (
    QGELU,
    QAvgPool2d,
    QBatchNorm1d,
    QBatchNorm2d,
    QBatchNorm3d,
    QConv1d,
    QConv2d,
    QConv3d,
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
    QDropout,
    QLinear,
    QMaxPool2d,
    QReLU,
    QSiLU,
    QSyncBatchNorm,
)
from pytorch_models.compressed.session import Compression
from pytorch_models.compressed.transformer_layers import QLayerNorm, QMultiheadAttention, QSoftmax

__all__ = [
    "QGELU",
    "Compression",
    "Controller",
    "IndexedLoader",
    "QAvgPool2d",
    "QBatchNorm1d",
    "QBatchNorm2d",
    "QBatchNorm3d",
    "QConv1d",
    "QConv2d",
    "QConv3d",
    "QConvTranspose1d",
    "QConvTranspose2d",
    "QConvTranspose3d",
    "QDropout",
    "QLayerNorm",
    "QLinear",
    "QMaxPool2d",
    "QModule",
    "QMultiheadAttention",
    "QReLU",
    "QSiLU",
    "QSoftmax",
    "QSyncBatchNorm",
    "compress",
    "gact",
]
