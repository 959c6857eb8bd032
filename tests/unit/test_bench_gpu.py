"""`scripts/bench gpu` compares the same computation, and says so where it cannot run."""

import pytest
import torch
from conftest import run_program

from scripts import bench
from scripts.benchmarks import gpu
from trainer.backbones.stack import stack

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_can_be_run():
    said = run_program(bench.main, "gpu").refused()
    assert "no GPU" in said and "--device cpu --small" in said


def test_coops_padded_texts_give_our_scores(tmp_path):
    model = gpu._clip(tmp_path, CPU, small=True)
    other, data = model.other()
    rows = data.with_format("torch")[:8]
    with torch.no_grad():
        theirs = other(**rows)["logits"]
        ours = model.backbone.logits(stack([other.prompt]), model.train.inputs[torch.arange(8)])[0]
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert theirs.std() > 0.01


def test_each_trainer_computes_in_the_type_that_is_asked_of_it(tmp_path):
    """They take turns on one model."""
    tuned, data = gpu._clip(tmp_path, CPU, small=True).other()
    seen = []
    layer = next(part for part in tuned.modules() if isinstance(part, torch.nn.Linear))
    layer.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    for number, bf16 in enumerate((True, False, True)):
        seen.clear()
        gpu._trainer_way(tuned, data, tmp_path, CPU, bf16)(number)
        assert set(seen) == {torch.bfloat16 if bf16 else torch.float32}


def test_the_products_of_a_step_are_counted():
    """One linear layer, of which the counter of torch sees nothing where oneDNN multiplies."""
    from torch.utils.flop_counter import FlopCounterMode

    from trainer.backbones.frozen_linear import FrozenLinear

    layer = FrozenLinear(torch.nn.Linear(6, 5).requires_grad_(False))
    states = torch.ones(3, 4, 6, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=gpu._onednn_flops()) as counted:
        layer(states).sum().backward()
    assert counted.get_total_flops() == 2 * (2 * 3 * 4 * 6 * 5)
