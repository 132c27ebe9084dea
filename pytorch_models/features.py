"""A model without its head, for detection and segmentation: it gives the feature maps of its stages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytorch_models.zoo_model import ZooModel

_PROBE_SIZE = 256  # pixels; divisible by every stage's reduction


class FeatureMaps(nn.Module):
    """A zoo model's feature maps.

    Attributes:
        model: the model, whose head is taken out.
        channels: of each map.
        reductions: how many times smaller than the images each map is.

    Input (N, in_chans, H, W); output a list of (N, channels[i], H / reductions[i], W / reductions[i]).

    Raises:
        ValueError: a model of a family without feature maps.
    """

    def __init__(self, model: ZooModel) -> None:
        super().__init__()
        if type(model).feature_maps is ZooModel.feature_maps:
            raise ValueError(f"features_only: a {type(model).__name__} has no feature maps")
        model.set_submodule(model.spec.head, nn.Identity())
        self.model = model
        maps = self._probe()
        self.channels = tuple(values.shape[1] for values in maps)
        self.reductions = tuple(_PROBE_SIZE // values.shape[-1] for values in maps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, from the largest to the smallest."""
        return self.model.feature_maps(images)

    def _probe(self) -> list[Tensor]:
        """The maps of one image without values: shapes alone are computed."""
        training = self.training
        tensors = {name: t.to("meta") for name, t in (*self.named_parameters(), *self.named_buffers())}
        images = torch.empty(1, self.model.spec.in_chans, _PROBE_SIZE, _PROBE_SIZE, device="meta")
        try:
            with torch.no_grad():
                return torch.func.functional_call(self.eval(), tensors, (images,))
        finally:
            self.train(training)


def feature_extractor(model: nn.Module) -> FeatureMaps:
    """The model without its head; see `FeatureMaps`.

    Raises:
        TypeError: not a model of the zoo.
        ValueError: a model of a family without feature maps.

    Example:
        >>> from pytorch_models import DenseNet
        >>> extractor = feature_extractor(DenseNet(block_config=(2, 2)))
        >>> extractor.channels, extractor.reductions
        ((48, 48), (1, 2))
    """
    if not isinstance(model, ZooModel):
        raise TypeError(f"feature_extractor needs a model of the zoo, not a {type(model).__name__}")
    return FeatureMaps(model)
