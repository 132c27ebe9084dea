# RetinaNet with a ResNet-50 on COCO: mmdet's own recipe, 4 bits by saved-tensor hooks. Needs mmdet and COCO.
_base_ = ["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"]
custom_imports = dict(imports=["pytorch_models.adapters.mmengine_hook"], allow_failed_imports=False)
custom_hooks = [dict(type="mmengine.ActNNHook", default_bit=4)]
