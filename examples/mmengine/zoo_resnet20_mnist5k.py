# A ResNet of this zoo on 4,000 handwritten digits with mmengine's Runner, its activations in 2 bits on average.
# Run: python examples/mmengine/train.py examples/mmengine/zoo_resnet20_mnist5k.py
# Needs mmengine; no download.
custom_imports = dict(imports=["pytorch_models.adapters.mmengine_hook"], allow_failed_imports=False)
model = dict(type="ZooClassifier", name="resnet20", num_classes=10)
train_dataloader = dict(
    batch_size=64,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="ZooImages", data="mnist5k"),
    collate_fn=dict(type="default_collate"),
)
train_cfg = dict(by_epoch=True, max_epochs=3)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9, weight_decay=1e-4))
custom_hooks = [dict(type="CompressionHook", scheme="L3")]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20),
    checkpoint=dict(type="CheckpointHook", interval=1),
)
work_dir = "runs/mmengine"
