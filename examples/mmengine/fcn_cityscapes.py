# FCN with a ResNet-50 on Cityscapes: mmseg's own recipe, 4 bits by saved-tensor hooks. Needs mmseg and Cityscapes.
_base_ = ["mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"]
custom_imports = dict(imports=["pytorch_models.adapters.mmengine_hook"], allow_failed_imports=False)
custom_hooks = [dict(type="mmengine.ActNNHook", default_bit=4)]
