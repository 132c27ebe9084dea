"""In which modes of each framework the networks are tried, what holds there, and the test that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Mode:
    """A way to run a network, and what the memory flags promise there.

    Args:
        name: as the framework's users call it.
        holds: what was found; a gap begins with "no" and says why.
        test: the file, from the repository's root, and the function that shows it; empty for what nothing shows.
    """

    name: str
    holds: str
    test: str = ""


_CONFORM = "tests/torch/test_conformance.py::test_"
_EXACT = "tests/tensorflow/test_tf_exact.py::test_"
_TF_CONFORM = "tests/tensorflow/test_tf_conformance.py::test_"
_SAME = "plain's numbers"

MODES: Mapping[str, tuple[Mode, ...]] = MappingProxyType(
    {
        "torch": (
            Mode(
                "training, dropout, random stream",
                _SAME,
                f"{_CONFORM}outputs_gradients_buffers_and_the_random_stream_are_plains",
            ),
            Mode("eval, some norms frozen", _SAME, f"{_CONFORM}eval_mode_and_some_norms_frozen"),
            Mode("frozen layers, inputs without gradient", _SAME, f"{_CONFORM}parts_without_gradient"),
            Mode(
                "no_grad",
                "the same outputs, nothing kept",
                f"{_CONFORM}no_grad_gives_what_eval_gives_and_keeps_nothing",
            ),
            Mode("five steps, momentum=None", _SAME, f"{_CONFORM}five_steps_of_training_end_alike"),
            Mode(
                "autocast to bfloat16",
                "as near to the truth as plain",
                f"{_CONFORM}low_precision_is_as_near_to_the_truth_as_plain",
            ),
            Mode(
                "float16, gradient scaling",
                "finite, trains",
                "tests/torch/test_conventions.py::test_mixed_precision_with_gradient_scaling",
            ),
            Mode("channels_last", _SAME, f"{_CONFORM}channels_last_inputs"),
            Mode(
                "two forwards, then two backwards; retain_graph",
                _SAME,
                f"{_CONFORM}two_forwards_then_two_backwards_and_a_retained_graph",
            ),
            Mode(
                "compressed, with and without efficient",
                "outputs to the bit",
                f"{_CONFORM}codes_change_gradients_alone",
            ),
            Mode(
                "gradient checkpointing",
                "plain's numbers, fewer bytes",
                f"{_CONFORM}gradient_checkpointing_keeps_less_and_changes_no_number",
            ),
            Mode("deepcopy, pickle", _SAME, f"{_CONFORM}a_copy_and_a_pickled_copy_behave_alike"),
            Mode("FakeTensorMode", "the same bytes", f"{_CONFORM}bytes_fall_and_are_the_same_under_fake_tensors"),
            Mode(
                "DistributedDataParallel",
                "two processes equal one",
                "tests/torch/test_distributed.py::test_an_efficient_densenet_trains_in_two_processes_as_the_plain_one",
            ),
            Mode(
                "torch.compile",
                "equal; blocks themselves are not compiled",
                "tests/torch/test_densenet_compile.py::test_torch_compile_is_equal",
            ),
            Mode(
                "torch.compile, fullgraph=True",
                "no: a block is one autograd Function with own kernels; refused with the reason",
                "tests/torch/test_densenet_compile.py::test_torch_compile_fullgraph_is_refused_with_the_reason",
            ),
            Mode("export, ONNX", "the plain network is exported", "tests/torch/test_export.py::test_onnx"),
            Mode(
                "torch.func transforms, forward mode",
                "plain's numbers by the plain way, with a warning",
                "tests/torch/test_transforms.py::test_derivatives_are_the_plain_models",
            ),
            Mode(
                "second derivatives",
                "no: the backward pass is written out and has none; refused with the way out",
                f"{_CONFORM}double_backward_is_refused_with_a_way_out",
            ),
            Mode(
                "plans within a budget",
                "plain's numbers, the measured peak within it",
                "tests/torch/test_planning.py::test_the_budget_is_kept_and_no_number_changes",
            ),
            Mode(
                "CUDA graphs",
                "the numbers of single steps; on a GPU alone",
                "tests/gpu/test_gpu_graphs.py::test_the_numbers_are_those_of_steps_run_one_by_one",
            ),
            Mode(
                "two GPUs",
                "no: never tried for want of two; the kernels' test waits for them",
                "tests/gpu/test_gpu_kernels.py::test_second_gpu",
            ),
        ),
        "tensorflow": (
            Mode("eager, tf.function, XLA", _SAME, f"{_EXACT}gradients_and_statistics_are_the_plain_models"),
            Mode(
                "bytes in eager, tf.function, XLA",
                "fewer in each",
                "tests/tensorflow/test_tf_memory.py::test_a_dense_block_needs_a_fraction",
            ),
            Mode("frozen norms", _SAME, f"{_EXACT}frozen_norms_use_their_running_statistics_and_do_not_move_them"),
            Mode("five steps, dropout", _SAME, f"{_TF_CONFORM}five_steps_end_alike"),
            Mode(
                "two forwards, then two backwards; a persistent tape",
                _SAME,
                f"{_TF_CONFORM}two_forwards_then_two_backwards_and_a_tape_asked_twice",
            ),
            Mode(
                "frozen layers, gradients of the input", _SAME, f"{_TF_CONFORM}frozen_layers_and_gradients_of_the_input"
            ),
            Mode("a graph of any batch size", _SAME, f"{_TF_CONFORM}a_graph_takes_batches_of_any_size"),
            Mode("get_config, from_config", "the same outputs", f"{_TF_CONFORM}a_copy_by_config_is_the_same_network"),
            Mode(
                "mixed_bfloat16, mixed_float16",
                "variables in float32, finite",
                f"{_EXACT}mixed_precision_keeps_variables_in_float32",
            ),
            Mode(
                "float16 with loss scaling in train",
                "near float32's step, fewer saved bytes",
                "tests/tensorflow/test_tf_float16.py::test_a_step_in_float16_is_near_the_one_in_float32",
            ),
            Mode("channels_first under XLA", _SAME, f"{_EXACT}channels_first_is_channels_last_under_xla"),
            Mode("Keras fit", "both the same", "tests/tensorflow/test_tf_training.py::test_keras_fits_both_the_same"),
            Mode(
                "Keras save, load in a new process",
                "the same outputs",
                "tests/tensorflow/test_tf_training.py::test_a_model_is_loaded_in_a_new_process",
            ),
            Mode(
                "compressed, in eager, tf.function and XLA",
                "outputs to the bit",
                "tests/tensorflow/test_tf_compressed.py::test_outputs_and_statistics_are_those_without_codes_to_the_bit",
            ),
            Mode(
                "bits that are learnt, Keras fit",
                "another graph for other bits",
                "tests/tensorflow/test_tf_learnt_bits.py::"
                "test_fit_makes_a_graph_for_other_bits_and_keras_loads_the_model",
            ),
            Mode(
                "zeros apart (quantz, autoquantz) under XLA",
                "no: how many bytes they take is known too late for XLA; refused",
                "tests/tensorflow/test_tf_policies.py::test_zeros_apart_are_refused_where_xla_compiles",
            ),
            Mode(
                "shared kernels, in eager and tf.function",
                "the operators' codes; refused under XLA; never tried on a GPU",
                "tests/tensorflow/test_tf_shared_kernels.py::test_codes_are_the_references",
            ),
            Mode(
                "second derivatives",
                "no: gradients are written out; refused",
                f"{_EXACT}a_second_derivative_is_refused",
            ),
            Mode(
                "Keras's callbacks",
                "ModelCheckpoint, CSVLogger, TensorBoard",
                "tests/tensorflow/test_tf_training.py::test_keras_callbacks_work_in_fit",
            ),
            Mode(
                "MirroredStrategy with fit",
                "trains, with jit_compile=False",
                "tests/tensorflow/test_tf_workers.py::test_fit_on_two_devices",
            ),
            Mode(
                "several processes, TF_CONFIG",
                "as one",
                "tests/tensorflow/test_tf_processes.py::test_two_processes_go_on_as_one_with_what_one_began",
            ),
            Mode(
                "several processes, Horovod",
                "as one; tried with a stand-in for Horovod alone",
                "tests/tensorflow/test_tf_processes.py::test_horovods_processes_train_as_one",
            ),
            Mode("MultiWorkerMirroredStrategy with fit", "no: Keras 3's fit does not take it; use train"),
        ),
        "mxnet": (
            Mode(
                "Module",
                "the same bits",
                "tests/mxnet_memonger/test_mxnet_models.py::test_a_symbol_trains_in_a_module_by_itself",
            ),
            Mode(
                "bind, efficient",
                "the same bits in fewer bytes",
                "tests/mxnet_memonger/test_mxnet_models.py::test_efficient_gives_the_same_bits_in_fewer_bytes",
            ),
            Mode(
                "Gluon, by memonger.gluon_train",
                "the same gradients",
                "tests/mxnet_memonger/test_memonger_in_use.py::test_gluon_gets_the_same_gradients_from_a_plan",
            ),
            Mode(
                "FeedForward",
                "fits",
                "tests/mxnet_memonger/test_memonger_in_use.py::test_feedforward_fits_a_planned_network",
            ),
            Mode(
                "buckets of lengths",
                "shared weights",
                "tests/mxnet_memonger/test_mxnet_lstm.py::test_buckets_of_different_lengths_share_weights",
            ),
            Mode(
                "two workers, kvstore",
                "as one",
                "tests/mxnet_memonger/test_mxnet_workers.py::test_two_workers_train_as_one",
            ),
            Mode(
                "compressed",
                "the same outputs, gradients near",
                "tests/mxnet_memonger/test_mxnet_compressed.py::test_forward_stays_and_gradients_are_near",
            ),
            Mode("hybridized Gluon blocks", "no: CachedOp does not read the mirror attribute; use gluon_train"),
            Mode(
                "random operators but Dropout",
                "never done again: MXNet would draw anew",
                "tests/mxnet_memonger/test_mirror_traps.py::test_random_operators_are_never_mirrored",
            ),
            Mode("GPU", "no: MXNet 1.9.1's GPU builds are of CUDA 11 and were not tried"),
        ),
    }
)
