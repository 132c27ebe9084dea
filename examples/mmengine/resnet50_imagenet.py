# ResNet-50 on ImageNet: mmpretrain's own recipe with activations in 2 bits on average. Needs mmpretrain and ImageNet.
_base_ = ["mmpretrain::resnet/resnet50_8xb32_in1k.py"]
custom_imports = dict(imports=["pytorch_models.adapters.mmengine_hook"], allow_failed_imports=False)
custom_hooks = [dict(type="mmengine.CompressionHook", scheme="L3")]
