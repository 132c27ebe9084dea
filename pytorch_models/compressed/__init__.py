"""Compressed training for any PyTorch model: ActNN's layers, GACT's hooks, AC-GC's schemes."""

from pytorch_models.compressed.gact import Controller, gact

__all__ = ["Controller", "gact"]
