"""Traces of torch models: numgpt's own numbers, whoever wrote the model, and a model left as it was."""

import functools
import re

import foreign_models as theirs
import numpy as np
import pytest
from layer_trace import POST, PRE, B, C, F, H, T, V, batch, beyond, made, of_layers

from numgpt import huggingface, safetensors
from numgpt.verify import torch_trace

pytestmark = pytest.mark.verify


def of_transformers(model, folder, **options):
    import transformers
    huggingface.save(model, folder)
    kind = transformers.GPT2LMHeadModel if model.config.norm == "pre" else transformers.OpenAIGPTLMHeadModel
    return kind.from_pretrained(folder, dtype="auto", **options)


@pytest.mark.parametrize("config, options", [
    (PRE, {"attn_implementation": "eager"}), (PRE, {"attn_implementation": "sdpa"}),
    (PRE.change(tied=False, n_hidden=F), {}), (PRE.change(scale_attn_by_layer=True, activation="relu"), {}),
    (POST, {}), (POST.change(tied=False, norm_eps=1e-2), {})])
def test_a_trace_of_transformers_has_our_numbers_under_our_names(config, options, tmp_path):
    model = made(config)
    found = torch_trace(of_transformers(model, tmp_path, **options), *batch())
    sdpa = config.norm == "pre" and options != {"attn_implementation": "eager"}
    assert not beyond(found, of_layers(model, *batch()), without="probabilities" if sdpa else "$^")
    assert all(array.dtype == (np.int32 if name.startswith("inputs.") else np.float64) for name, array in found.items())


@pytest.mark.parametrize("flash", [False, True])
def test_a_trace_of_a_model_in_nanogpts_manner_has_our_numbers(flash):
    model = made()
    found = torch_trace(theirs.nano(model, flash=flash), *batch())
    assert not beyond(found, of_layers(model, *batch()), without="probabilities" if flash else "$^")


def test_a_trace_of_a_model_in_the_first_mingpts_manner_has_our_numbers():
    model = made(PRE.change(activation="gelu", tied=False))
    assert not beyond(torch_trace(theirs.first_mingpt(model), *batch()), of_layers(model, *batch()))


def test_a_module_with_names_of_its_own_that_works_in_place_has_our_numbers():
    model = made(PRE.change(n_hidden=F, activation="relu"))
    module, truth = theirs.plain(model), of_layers(model, *batch())
    assert not beyond(torch_trace(module, *batch(), theirs.OF_PLAIN), truth)
    # The number of heads is seen in the probabilities alone, or has to be said.
    names = {key: ours for key, ours in theirs.OF_PLAIN.items() if key != "layers.*.look.softmax"}
    assert not beyond(torch_trace(module, *batch(), names, n_head=H), truth, without="probabilities")
    assert not beyond(torch_trace(module, *batch(), names), truth, without="probabilities|attention.[qkv]$")


def test_every_model_is_left_as_it_was_also_when_it_fails():
    import torch
    module = theirs.nano(made(), dropout=0.5)
    module.transformer.h[0].eval()
    module.transformer.h[1].ln_1.bias.requires_grad_(False)
    module.lm_head.weight.grad = marked = torch.ones_like(module.lm_head.weight)
    module.transformer.ln_f.register_forward_hook(lambda *_: None)

    def state():
        return ([(name, one.training, len(one._forward_hooks), len(one._forward_pre_hooks))
                 for name, one in module.named_modules()],
                [(name, p.requires_grad, p.grad, p._backward_hooks, p._version) for name, p in module.named_parameters()])

    before = state()
    assert {mode for _, mode, _, _ in before[0]} == {True, False}
    for train in (False, True):
        torch_trace(module, *batch(), train=train)
        assert state() == before and module.lm_head.weight.grad is marked and (marked == 1).all()
    with torch.no_grad():
        assert "grads.norm.gain" in torch_trace(module, *batch())
    module.transformer.ln_f.forward = lambda x: x / None
    for train in (False, True):
        with pytest.raises(TypeError, match="unsupported operand"):
            torch_trace(module, *batch(), train=train)
        assert state() == before


def test_dropout_at_work_is_seen_on_both_of_its_sides():
    import torch
    torch.manual_seed(1)
    p, ids = 0.25, batch()[0]
    found = torch_trace(theirs.nano(made(), dropout=p), *batch(), train=True)
    table, positions = found["weights.embedding.table"], found["weights.positions.table"]
    assert np.array_equal(found["forward.positions"], table[ids] + positions[:T])  # before dropout, which is
    for before, after in (("positions", "dropout"), ("blocks.1.attention.probabilities", "blocks.1.attention.kept"),
                          ("blocks.0.attention.out", "blocks.0.attention.dropped"),
                          ("blocks.1.ffn.down", "blocks.1.ffn.dropped")):
        kept = found[f"forward.{after}"] != 0
        assert 0.3 < kept[found[f"forward.{before}"] != 0].mean() < 1
        for way, x, y in (("forward", before, after), ("backward", after, before)):
            assert np.allclose(found[f"{way}.{y}"][kept], found[f"{way}.{x}"][kept] / (1 - p), rtol=1e-12)
        assert not found[f"backward.{before}"][~kept & (found[f"forward.{before}"] != 0)].any()
    still = torch_trace(theirs.nano(made(), dropout=p), *batch())
    assert not any(name.endswith(("dropout", "kept", "dropped")) for name in still)


def test_a_frozen_parameter_has_weights_and_no_gradient_and_what_it_makes_has_one():
    model = made()
    module, truth = theirs.nano(model), of_layers(model, *batch())
    del truth["clip.norm"]  # which is that of fewer
    module.transformer.wte.weight.requires_grad_(False)
    module.transformer.wpe.weight.requires_grad_(False)
    module.transformer.h[0].attn.c_attn.bias.requires_grad_(False)
    found = torch_trace(module, *batch())
    lengths = [np.linalg.norm(grad) for name, grad in found.items() if name.startswith("grads.")]
    assert np.isclose(found.pop("clip.norm"), np.linalg.norm(lengths), rtol=1e-14)
    assert not beyond(found, truth, without="grads.(embedding|positions|blocks.0.attention.qkv.bias)")
    module.requires_grad_(False)
    found = torch_trace(module, *batch())
    assert found.pop("clip.norm") == 0
    assert not beyond(found, truth, without="grads")


def test_a_model_in_bfloat16_is_recorded_in_float32_whose_lower_half_is_zero():
    import torch
    found = torch_trace(theirs.nano(made()).to(torch.bfloat16), *batch())
    assert {array.dtype for name, array in found.items() if not name.startswith("inputs.")} == {np.dtype(np.float32)}
    assert not any((array.view(np.uint32) & 0xFFFF).any() for name, array in found.items()
                   if not name.startswith(("inputs.", "clip.")))
    # Eight bits of a number: each is rounded by up to 0.4%. 0.3% was seen in the logits, where roundings cancel.
    truth = of_layers(made(), *batch())["forward.logits"]
    assert np.linalg.norm(found["forward.logits"] - truth) < 0.02 * np.linalg.norm(truth)


def test_ids_may_be_of_numpy_torch_or_lists_and_the_file_holds_what_is_returned(tmp_path):
    import torch
    module, (ids, targets) = theirs.nano(made()), batch()
    truth = torch_trace(module, ids, targets, path=tmp_path / "trace")
    assert not beyond(safetensors.read(tmp_path / "trace"), truth, tolerance=0)
    ids.flags.writeable = False
    for other in ((ids, targets.astype(np.int32)), (ids.tolist(), targets.tolist()),
                  (torch.tensor(ids).int(), torch.tensor(targets))):
        assert not beyond(torch_trace(module, *other), truth, tolerance=0)
    assert not beyond(torch_trace(module, ids, targets, weights=False), truth, tolerance=0, without="weights")
    for wrong in ((ids / 2, targets), (ids[0], targets[0]), (ids, targets[:, 1:])):
        with pytest.raises((ValueError, TypeError), match="must b"):
            torch_trace(module, *wrong)


def test_where_no_target_counts_loss_and_gradients_are_0():
    found = torch_trace(theirs.nano(made()), batch()[0], np.full((B, T), -100))
    assert found["forward.loss"] == 0 and not found["grads.embedding.table"].any() and not found["backward.logits"].any()


def test_the_reference_notices_one_wrong_number():
    model = made()
    module = theirs.nano(model)
    module.transformer.h[1].mlp.c_fc.bias.data[3] *= 1 + 1e-9
    wrong = beyond(torch_trace(module, *batch()), of_layers(model, *batch()))
    assert {"weights.blocks.1.ffn.up.bias", "forward.blocks.1.ffn.up", "grads.embedding.table"} <= wrong.keys()
    assert "forward.blocks.1.norm2" not in wrong


@pytest.mark.parametrize("names, says", [
    ({"layers.*.pree": "blocks.*.norm1"}, "'layers.*.pree' is not a module or parameter of Plain; near it: 'layers.1.pre'"),
    ({"layers.*.pre": "blocks.*.norm"}, "'blocks.0.norm' is no name of ours; near it: 'blocks.0.norm2', 'blocks.0.norm1'"),
    ({"place": "position.table"}, "'position.table' is no name of ours; near it: 'positions.table'"),
    ({"last": "norm", "layers.1.post": "norm"}, "'last' and 'layers.1.post' cannot both be 'norm'"),
    ({"last.g": "norm.gain", "layers.1.post.g": "norm.gain"}, "two parameters cannot both be 'norm.gain'"),
    ({"layers.0.bend": "blocks.0.ffn.activation"}, "'layers.0.bend' ran 2 times and has 1 name of ours"),
    ({"unused": "norm"}, "'unused' ran 0 times and has 1 name of ours: if another module uses its parameters, name those"),
    ({}, "no module of Plain has a name that is known: say names={their name: ours}, theirs being 'words'")])
def test_names_that_cannot_be_are_told(names, says):
    import torch
    module = theirs.plain(made(PRE.change(n_hidden=F, activation="relu")))
    module.unused = torch.nn.Linear(C, V)
    with pytest.raises(ValueError, match=re.escape(says)):
        torch_trace(module, *batch(), names)


def test_known_modules_that_run_twice_under_one_name_are_left_out():
    module = theirs.nano(made())
    again = module.transformer.h[1].ln_2
    module.transformer.ln_f.register_forward_hook(lambda _, inputs, x: again(x))
    found = torch_trace(module, *batch())
    assert "forward.blocks.0.norm2" in found
    assert "forward.blocks.1.norm2" not in found and "backward.blocks.1.sum1" not in found


def test_recomputed_blocks_are_seen_once_and_a_compiled_model_is_seen_through():
    import torch
    from torch.utils.checkpoint import checkpoint
    model = made()
    module, truth = theirs.nano(model), of_layers(model, *batch())
    for block in module.transformer.h:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    assert not beyond(torch_trace(module, *batch()), truth)
    assert not beyond(torch_trace(torch.compile(theirs.nano(model)), *batch()), truth)


def test_one_block_in_every_place_has_the_names_of_all_and_its_parameters_those_of_the_first():
    model = made()
    for name, param in model.named_params():
        if name.startswith("blocks.1."):
            param.value[...] = dict(model.named_params())[name.replace("1", "0", 1)].value
    module, truth = theirs.nano(model), of_layers(model, *batch())
    module.transformer.h[1] = module.transformer.h[0]
    found = torch_trace(module, *batch())
    for name in [name for name in truth if name.startswith("grads.blocks.0")]:
        truth[name] = truth[name] + truth.pop(name.replace("blocks.0", "blocks.1"))
    truth["clip.norm"] = np.linalg.norm([np.linalg.norm(grad) for name, grad in truth.items() if name.startswith("grads.")])
    assert not beyond(found, truth, without="weights.blocks.1")


def test_a_model_without_logits_or_without_gradients_is_told(tmp_path):
    import torch
    their = of_transformers(made(), tmp_path)
    with pytest.raises(TypeError, match="GPT2Model gives hidden states and no logits: take the model with its head"):
        torch_trace(their.transformer, *batch())
    module = theirs.nano(made())
    module.lm_head.register_forward_hook(lambda _, inputs, logits: logits.detach())
    with pytest.raises(ValueError, match="the logits have no gradient"):
        torch_trace(module, *batch())
    module = theirs.nano(made())
    module.register_forward_hook(lambda _, inputs, output: (output[0][:, 1:], None))
    with pytest.raises(ValueError, match=re.escape("logits must be (B, T, V) for ids (2, 7); they are (2, 6, 13)")):
        torch_trace(module, *batch())
    with pytest.raises(TypeError, match="wants a torch.nn.Module; got function"):
        torch_trace(lambda ids: torch.zeros(B, T, V), *batch())
