"""Training with captured steps on a GPU: the same losses as without, in every epoch, and fewer bytes than plain."""

from __future__ import annotations

import pytest
from gpu_here import why_not

if WHY_NOT := why_not():
    pytest.skip(f"needs a GPU: {WHY_NOT}", allow_module_level=True)

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU that PyTorch sees", allow_module_level=True)

from small_run import SmallNet, small_data, small_options  # noqa: E402

from pytorch_models import DenseNet  # noqa: E402
from pytorch_models.devices import set_seed  # noqa: E402
from pytorch_models.graphed_step import GraphedStep  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.options import TrainingError  # noqa: E402


@pytest.mark.parametrize("kind", ["plain with dropout", "efficient"])
@pytest.mark.parametrize("amp", [False, True])
def test_the_numbers_are_those_of_steps_run_one_by_one(kind: str, amp: bool) -> None:
    found = []
    for cuda_graphs in (False, True):
        set_seed(0)
        flags = {"drop_rate": 0.2} if kind.startswith("plain") else {"efficient": True}
        model = DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=4, **flags)
        options = small_options(device="cuda:0", lr=0.01, amp=amp, cuda_graphs=cuda_graphs)
        result = train(model, small_data(), options)
        found.append([row["train_loss"] for row in result.metrics] + [result.test_loss])
    assert found[1] == pytest.approx(found[0], rel=2e-2 if amp else 1e-4)


def test_a_batch_of_another_shape_runs_as_usual_and_the_graph_goes_on() -> None:
    model = SmallNet(norm=False).cuda()
    parameters = list(model.parameters())
    runs = []

    def step(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        runs.append(len(inputs))
        for parameter in parameters:
            parameter.grad = None
        loss = torch.nn.functional.cross_entropy(model(inputs), labels, reduction="sum")
        loss.backward()
        return loss.detach(), (labels >= 0).sum()

    graphed = GraphedStep(step, parameters)
    for size in (8, 8, 8, 8, 8, 5, 8):
        inputs, labels = torch.randn(size, 3, 16, 16, device="cuda"), torch.arange(size, device="cuda") % 4
        loss, right = graphed(inputs, labels)
        gradients = [parameter.grad.clone() for parameter in parameters]
        expected, _ = step(inputs, labels)
        torch.testing.assert_close(loss, expected)
        assert int(right) == size
        torch.testing.assert_close(gradients, [parameter.grad for parameter in parameters])
    # Each size once more for the comparison; of the graphed ones, three to warm up, one captured, one of another shape.
    assert len(runs) == 7 + 5


def test_a_step_that_waits_for_the_gpu_is_named() -> None:
    class Waits(SmallNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * (1 if float(images.sum()) > 0 else 2)

    with pytest.raises(TrainingError, match=r"^cuda_graphs=True: this model's step cannot be captured"):
        train(Waits(), small_data(), small_options(device="cuda:0", cuda_graphs=True))
