"""Classifiers beside transformers' GPT-1 with two heads, and beside the same written in torch's operators."""

import numpy as np
import pytest
from frameworks import beyond, errors
from test_model_against_frameworks import CONTEXT, B, C, H, V, their_model

from numgpt import GPT, GPTConfig, huggingface
from numgpt.formats.huggingface import their_name
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.template import Template
from numgpt.verify import cases
from numgpt.verify.cases.classifier import batch_of

pytestmark = pytest.mark.verify

T, LM_WEIGHT = 7, 0.5
TOLERANCE = 1e-11


def batch(kind, seed=0):
    sizes = cases.Sizes(B=B + 1, T=T, F=3)
    return batch_of(np.random.default_rng((seed, 3)), sizes, kind, V)


def ours(gpt, kind):
    """A classifier on a GPT, the last of whose tokens are those between texts, with weights of order one."""
    template = Template(kind, V - (2 if kind == "classify" else 3))
    model = Classifier(gpt, template, None if kind == "choice" else ("a", "b", "c"), lm_weight=LM_WEIGHT)
    return cases.order_one(model, np.random.default_rng(5))


def with_numgpt(model, ids, last, classes, targets):
    model.zero_grad()
    loss, saved = model.forward(ids, last, classes, targets)
    model.backward(saved)
    rows = ids.reshape(-1, ids.shape[-1])
    return {"scores": model.scores(ids, last), "logits": model.logits(rows).reshape(*ids.shape, -1), "loss": np.float64(loss),
            **{name: param.grad for name, param in model.named_params()}}


def losses(logits, scores, classes, targets):
    """Both, in float64: what transformers computes itself it takes in float32."""
    from torch.nn.functional import cross_entropy
    return (cross_entropy(scores, classes, ignore_index=-100),
            cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100))


@pytest.mark.parametrize("tied", [True, False])
def test_gpt1_with_two_heads_has_our_choices_scores_losses_and_gradients(tied):
    import torch
    import transformers
    config = transformers.OpenAIGPTConfig(vocab_size=V, n_positions=CONTEXT, n_embd=C, n_layer=2, n_head=H, num_labels=1,
                                          tie_word_embeddings=tied, summary_type="cls_index", summary_proj_to_labels=True,
                                          summary_first_dropout=0.0)
    their = transformers.OpenAIGPTDoubleHeadsModel(config).double().eval()
    gpt = GPT(GPTConfig(n_vocab=V, n_ctx=CONTEXT, n_layer=2, n_head=H, n_embd=C, norm="post", activation="gelu_tanh", tied=tied),
              dtype=np.float64)
    model = ours(gpt, "choice")
    params = dict(their.named_parameters())
    name_of = {"task.linear.weight": "multiple_choice_head.summary.weight"}
    for name, param in model.named_params():
        name_of.setdefault(name, their_name(name, "openai-gpt") if not name.startswith("task.") else None)
        value = param.value.T if name in ("head.weight", "task.linear.weight") else param.value
        assert params[name_of[name]].shape == value.shape, name
        params[name_of[name]].data = torch.from_numpy(value.copy())
    bias = params["multiple_choice_head.summary.bias"]
    assert set(params) - set(name_of.values()) == {"multiple_choice_head.summary.bias"}  # which no loss over choices feels
    ids, last, classes, targets = batch("choice")
    last = np.maximum(last, 2)  # theirs has no choice that is not there
    targets = np.where(np.arange(T) < last[..., None], np.where(targets == -100, 1, targets), -100)
    found = with_numgpt(model, ids, last, classes, targets)

    out = their(torch.from_numpy(ids), mc_token_ids=torch.from_numpy(last))
    task, language = losses(out.logits, out.mc_logits, *map(torch.from_numpy, (classes, targets)))
    # transformers' own losses, which shift the labels themselves; in float32, 1e-6 at numbers of order one
    labels = torch.from_numpy(np.pad(targets, ((0, 0), (0, 0), (1, 0)), constant_values=-100)[..., :-1])
    said = their(torch.from_numpy(ids), mc_token_ids=torch.from_numpy(last), labels=labels, mc_labels=torch.from_numpy(classes))
    assert said.loss.item() == pytest.approx(language.item(), rel=1e-6) and said.mc_loss.item() == pytest.approx(task.item(), rel=1e-6)

    (task + LM_WEIGHT * language).backward()
    truth = {"scores": (out.mc_logits - bias).detach().numpy(), "logits": out.logits.detach().numpy(),
             "loss": np.float64((task + LM_WEIGHT * language).item())}
    for name, param in model.named_params():
        grad = params[name_of[name]].grad.numpy()
        truth[name] = grad.T if name in ("head.weight", "task.linear.weight") else grad
    assert not beyond(TOLERANCE, errors(found, truth))
    assert abs(bias.grad.item()) < 1e-15
    model.lm_weight = 0.0
    assert model(ids, last, classes, targets) == pytest.approx(task.item(), rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["classify", "pairs", "similarity", "choice"])
@pytest.mark.parametrize("form", ["gpt2", "openai-gpt"])
def test_a_task_on_transformers_body_written_in_torch_is_ours(kind, form, tmp_path):
    import torch
    their = their_model(form, 1)
    their.save_pretrained(tmp_path)
    gpt = huggingface.load(tmp_path, dtype=np.float64)
    before = {name: param.value.copy() for name, param in gpt.named_params()}
    model = ours(gpt, kind)
    for name, param in model.named_params():
        if name in before:
            param.value[...] = before[name]
    ids, last, classes, targets = batch(kind)
    found = with_numgpt(model, ids, last, classes, targets)

    rows, places = torch.from_numpy(ids.reshape(-1, T)), torch.from_numpy(last.reshape(-1))
    hidden = their.transformer(rows)[0]
    logits = their.lm_head(hidden)
    h = hidden[torch.arange(len(rows)), places.clamp(min=0)].reshape(*last.shape, C)
    head = {name: torch.tensor(param.value, requires_grad=True) for name, param in model.task.named_params()}
    if kind == "similarity":
        h = h.sum(1)
    scores = h @ head["linear.weight"] + head.get("linear.bias", 0)
    if kind == "choice":
        scores = scores[..., 0].masked_fill(torch.from_numpy(last < 0), -torch.inf)
    task, language = losses(logits, scores, *map(torch.from_numpy, (classes, targets)))
    loss = task + LM_WEIGHT * language
    loss.backward()
    truth = {"scores": scores.detach().numpy(), "logits": logits.detach().numpy().reshape(*ids.shape, V),
             "loss": np.float64(loss.item())}
    theirs = dict(their.named_parameters())
    for name, _ in model.named_params():
        param = head[name.removeprefix("task.")] if name.startswith("task.") else theirs[their_name(name, form)]
        truth[name] = param.grad.numpy()
    for one in (found, truth):
        if kind == "choice":
            assert (one["scores"][last < 0] == -np.inf).all()  # where a choice is not there
        one["scores"] = np.where(np.isfinite(one["scores"]), one["scores"], 0)
    assert not beyond(TOLERANCE, errors(found, truth))
