"""One process that trains a small LSTM, alone or as one of several, and writes its weights down."""

from __future__ import annotations

import sys

import numpy as np

import mxnet_memonger
from mxnet_memonger import LSTM, train
from mxnet_memonger.weights import canonical_weights
from zoo.data.text_data import TextData
from zoo.launch import Launch
from zoo.options import TrainingOptions

data = TextData.of("abc", "abcab" * 60, window=8)
mxnet_memonger.set_seed(0)
model = LSTM(reads="tokens", input_size=4, hidden_size=8, num_classes=3)
options = TrainingOptions(n_epochs=2, batch_size=6, valid_size=9, lr=0.5, device="cpu", progress=False)
result = train(model, data, options)
rank = Launch.from_environment().rank
np.savez(f"{sys.argv[1]}/{rank}.npz", **canonical_weights(model), losses=[r["train_loss"] for r in result.metrics])
