"""The reward model's and DPO's losses and all their gradients beside torch, written here, in float64."""

import numpy as np
import pytest

from numgpt.verify import cases

pytestmark = pytest.mark.verify
torch = pytest.importorskip("torch")
F = torch.nn.functional


def weights_of(model):
    return {name: torch.tensor(param.value, requires_grad=True) for name, param in model.named_params()}


def hidden(w, config, ids):
    """ids (N, T) -> (N, T, C): a pre-norm GPT in torch's operators, its attention with torch's own kernel."""
    N, T = ids.shape
    C, H = config.n_embd, config.n_head
    x = w["embedding.table"][ids] + w["positions.table"][:T]
    for i in range(config.n_layer):
        b = f"blocks.{i}."
        h = F.layer_norm(x, (C,), w[b + "norm1.gain"], w[b + "norm1.bias"], config.norm_eps)
        qkv = (h @ w[b + "attention.qkv.weight"] + w[b + "attention.qkv.bias"]).view(N, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv, is_causal=True).transpose(1, 2).reshape(N, T, C)
        x = x + y @ w[b + "attention.out.weight"] + w[b + "attention.out.bias"]
        h = F.layer_norm(x, (C,), w[b + "norm2.gain"], w[b + "norm2.bias"], config.norm_eps)
        h = F.gelu(h @ w[b + "ffn.up.weight"] + w[b + "ffn.up.bias"], approximate="tanh")
        x = x + h @ w[b + "ffn.down.weight"] + w[b + "ffn.down.bias"]
    return F.layer_norm(x, (C,), w["norm.gain"], w["norm.bias"], config.norm_eps)


def log_probs(w, config, ids, targets):
    """(B, 2) of what counts in targets, summed; of one answer after the other, without its padding."""
    found = torch.zeros(ids.shape[:2], dtype=torch.float64)
    for b, side in np.ndindex(*ids.shape[:2]):
        row = torch.tensor(ids[b, side])[None]
        head = w["embedding.table"].T if config.tied else w["head.weight"]
        logits = hidden(w, config, row)[0] @ head + w.get("head.bias", 0)
        found[b, side] = -F.cross_entropy(logits, torch.tensor(targets[b, side]), ignore_index=-100, reduction="sum")
    return found


def agree(model, w, ours, theirs):
    """To 1e-11 of the largest derivative of each parameter: float64's rounding through two layers is some 1e-15."""
    assert abs(ours - theirs.item()) <= 1e-11 * abs(theirs.item())
    theirs.backward()
    for name, param in model.named_params():
        expected = np.zeros(param.shape) if w[name].grad is None else w[name].grad.numpy()
        assert np.abs(param.grad - expected).max() <= 1e-11 * max(np.abs(expected).max(), 1e-3), name


@pytest.mark.parametrize("B", [1, 5])
def test_the_reward_model_is_torch_s(B):
    case = cases.make("reward-model", 2, cases.Sizes(B=B))
    model, (ids, last) = case.target, case.inputs
    loss, saved = model.forward(ids, last)
    model.backward(saved)
    w = weights_of(model)
    scores = torch.zeros(B, 2, dtype=torch.float64)
    for b, side in np.ndindex(B, 2):  # one answer after the other, without its padding
        row = torch.tensor(ids[b, side, :last[b, side] + 1])[None]
        scores[b, side] = (hidden(w, model.config, row)[0, -1] @ w["task.linear.weight"])[0]
    agree(model, w, loss, -F.logsigmoid(scores[:, 0] - scores[:, 1]).mean())


@pytest.mark.parametrize("name", ["dpo-model", "dpo-model-untied"])
@pytest.mark.parametrize("B", [1, 5])
def test_dpo_with_a_reference_model_is_torch_s(name, B):
    """The reference is a model too, a copy with other weights, as its authors' code has it; ours was computed once, before."""
    case = cases.make(name, 2, cases.Sizes(B=B))
    model, (ids, targets) = case.target, case.inputs
    start = model.astype(np.float64)
    start.values += 0.1 * np.random.default_rng(0).standard_normal(start.values.size)
    loss, saved = model.forward(ids, targets, start.log_probs(ids, targets))
    model.backward(saved)
    w = weights_of(model)
    with torch.no_grad():
        reference = log_probs(weights_of(start), model.config, ids, targets)
    gained = log_probs(w, model.config, ids, targets) - reference
    margin, smoothing = model.dpo.beta * (gained[:, 0] - gained[:, 1]), model.dpo.smoothing
    agree(model, w, loss, (-F.logsigmoid(margin) * (1 - smoothing) - F.logsigmoid(-margin) * smoothing).mean())


def test_one_of_dpo_s_mistakes_would_be_seen():
    from numgpt.verify import mutants
    with pytest.raises(AssertionError), mutants.apply("dpo-model-mean", variant=1):
        test_dpo_with_a_reference_model_is_torch_s("dpo-model", 5)
