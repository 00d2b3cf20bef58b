"""Every layer's gradients, at weights of order one and coprime sizes."""

import numpy as np
import pytest

from numgpt.gradcheck import check
from numgpt.verify import cases
from numgpt.verify.cases import lora, packing, policy, preference
from stages import later

# Whole blocks: test_model.py has them in nano, each element of it, and in gpt1. They and what has a sister wait for the second stage.
BLOCKS = {name for name in cases.names() if "block" in name or name == "recompute"}
# What another case here has in parts: a Linear's bias, a window, a head's dropout.
PARTS = {"self-attention-no-bias", "self-attention-window", "feed-forward-gelu", "packed-self-attention-window-dropout",
         "score-head-bias", "head-log-probs-bias"}
EXACT = [later(name) if name in (BLOCKS | PARTS) - {"pre-norm-block-dropout"} else name for name in cases.names()]
SISTERS = {*BLOCKS, *PARTS, "self-attention-unscaled", "head-loss-tied", "head-loss-bias", "head-log-probs-tied", "attention-window",
           "feed-forward-relu", "softmax-cross-entropy-count", "class-head-dropout", "score-head-dropout", "similarity-head-dropout",
           "value-head-bias"}
# Of what a GPT is tuned with, complex step has each; the other two ways have one of each kind here, and the rest later.
TUNING = {*preference.BUILDERS, *policy.BUILDERS, *packing.BUILDERS, *lora.BUILDERS} - {"class-head", "head-log-probs", "dpo", "gae",
                                                                                       "clipped-policy", "packed-attention", "lora"}
FIRST = [later(name) if name in SISTERS | TUNING else name for name in cases.names()]


@pytest.mark.parametrize("name", EXACT)
def test_complex_step_agrees_within_1e_12_of_the_largest_derivative(name):
    inputs, options = cases.make(name, seed=1).arguments()
    report = check(*inputs, method="complex", mode="every", **options)
    assert report.ok, report
    assert {f.method for f in report.gradients} == {"complex"}
    assert all(f.checked == f.total for f in report.gradients)
    assert max(f.error for f in report.gradients) <= 1e-12


@pytest.mark.parametrize("name", [later(name) if name == "self-attention-dropout" else name for name in FIRST])
def test_richardson_agrees_within_its_own_tolerance(name):
    # Small sizes, coprime all the same: sixteen evaluations an element.
    sizes = cases.Sizes(B=1, T=4, H=2, D=3, C=5, F=7, V=11)
    inputs, options = cases.make(name, seed=2, sizes=sizes).arguments()
    report = check(*inputs, method="richardson", mode="every", **options)
    assert report.ok, report
    assert max(f.tolerance for f in report.gradients) < 1e-8  # it did not agree by knowing nothing


@pytest.mark.parametrize("name", FIRST)
def test_float32_follows_float64(name):
    inputs, options = cases.make(name, seed=3, sizes=cases.Sizes(dtype=np.float32)).arguments()
    report = check(*inputs, mode="every", **options)
    assert report.ok, report
    single = [f for f in report.gradients if f.method == "float32"]
    assert len(single) == len(report.gradients) // 2
    # What torch's own float32 layers show is up to 1e-6; a whole block with attention ten times that.
    assert max(f.error for f in single) < 1e-5


def test_the_cases_are_as_hard_as_they_promise():
    sizes = cases.Sizes()
    assert np.gcd.reduce([sizes.B, sizes.T, sizes.H, sizes.D, sizes.C, sizes.F, sizes.V]) == 1
    assert len({sizes.B, sizes.T, sizes.H, sizes.D, sizes.C, sizes.F, sizes.V}) == 7
    (_, ids), _ = cases.make("embedding").arguments()
    assert len(np.unique(ids)) < ids.size
    (_, _, targets), _ = cases.make("head-loss").arguments()
    assert (targets == -100).any() and (targets >= 0).any()
    for name in cases.names():
        target = cases.make(name).target
        for path, param in getattr(target, "named_params", list)():
            fan_in = param.shape[0] if path.endswith("weight") else 1
            assert param.size == 1 or 0.5 < param.value.std() * np.sqrt(fan_in) < 2, f"{name} {path} is not of order one"
