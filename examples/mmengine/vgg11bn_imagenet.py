# VGG11 with BatchNorm on ImageNet: mmpretrain's own recipe, 4 bits by saved-tensor hooks.
# Needs mmpretrain and ImageNet.
_base_ = ["mmpretrain::vgg/vgg11bn_8xb32_in1k.py"]
custom_imports = dict(imports=["pytorch_models.adapters.mmengine_hook"], allow_failed_imports=False)
custom_hooks = [dict(type="mmengine.ActNNHook", default_bit=4)]
