"""llm.c's files, written here once more by the published format: numgpt reads and writes the same bytes.

What llm.c's train_gpt2.py does with a checkpoint and a debug state stands in `checkpoint` and `debug_state` below,
without a line of numgpt's.
"""

import dataclasses
import re
import struct

import numpy as np
import pytest

from numgpt.config import GPTConfig
from numgpt.files import FormatError
from numgpt.formats import llmc
from numgpt.model import GPT

# Apart from the heads, which must divide the width, no two sizes share a factor, so that none can stand for another.
# 131 tokens are padded to 256.
SIZES = dict(T=7, V=131, L=3, H=2, C=10)
CONFIG = GPTConfig(n_vocab=131, n_ctx=7, n_layer=3, n_head=2, n_embd=10)
FLOAT32, BFLOAT16 = 3, 5


# -- the published format


def shapes(*, T, V, L, H, C):
    """The 16 arrays in llm.c's order, by its names."""
    return {"wte": (V, C), "wpe": (T, C), "ln1w": (L, C), "ln1b": (L, C), "qkvw": (L, 3 * C, C), "qkvb": (L, 3 * C),
            "attprojw": (L, C, C), "attprojb": (L, C), "ln2w": (L, C), "ln2b": (L, C), "fcw": (L, 4 * C, C),
            "fcb": (L, 4 * C), "fcprojw": (L, C, 4 * C), "fcprojb": (L, C), "lnfw": (C,), "lnfb": (C,)}


OURS = {"wte": "embedding.table", "wpe": "positions.table", "ln1w": "norm1.gain", "ln1b": "norm1.bias",
        "qkvw": "attention.qkv.weight", "qkvb": "attention.qkv.bias", "attprojw": "attention.out.weight",
        "attprojb": "attention.out.bias", "ln2w": "norm2.gain", "ln2b": "norm2.bias", "fcw": "ffn.up.weight",
        "fcb": "ffn.up.bias", "fcprojw": "ffn.down.weight", "fcprojb": "ffn.down.bias", "lnfw": "norm.gain",
        "lnfb": "norm.bias"}


def random_arrays(seed=0, **sizes):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("<f4") for name, shape in shapes(**sizes).items()}


def by_our_names(arrays):
    """Layer by layer, matrices (in, out)."""
    named = {}
    for name, array in arrays.items():
        if name in ("wte", "wpe", "lnfw", "lnfb"):
            named[OURS[name]] = array
        else:
            for i, one in enumerate(array):
                named[f"blocks.{i}.{OURS[name]}"] = one.T if one.ndim == 2 else one
    return named


def header(*fields):
    return struct.pack("<256i", *fields, *[0] * (256 - len(fields)))


def padded(V):
    while V % 128:
        V += 1
    return V


def body(arrays, as_bytes=lambda array: array.astype("<f4").tobytes()):
    V, C = arrays["wte"].shape
    wte = np.concatenate([arrays["wte"], np.zeros((padded(V) - V, C), "<f4")])
    return b"".join(as_bytes(array) for array in {**arrays, "wte": wte}.values())


def upper_half(array):
    """A float32 cut to bfloat16, which the format takes as the 16 bits it is."""
    return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def checkpoint(arrays, version=FLOAT32, *, T, V, L, H, C):
    return header(20240326, version, T, V, L, H, C, padded(V)) + body(
        arrays, *[upper_half] if version == BFLOAT16 else [])


def debug_state(ids, targets, logits, loss, grads):
    B, T = ids.shape
    return (header(20240327, 2, B, T) + ids.astype("<i4").tobytes() + targets.astype("<i4").tobytes()
            + logits.astype("<f4").tobytes() + struct.pack("<f", loss) + body(grads))


def random_state(seed=0, B=2, t=3, **sizes):
    """A batch, and numbers in the place of what a model would make of it."""
    rng = np.random.default_rng(seed)
    V = sizes["V"]
    ids, targets = rng.integers(0, V, (2, B, t), dtype=np.int32)
    return ids, targets, rng.standard_normal((B, t, V)).astype("<f4"), np.float32(4.25), random_arrays(seed, **sizes)


# -- weights


@pytest.mark.parametrize("V", [11, 128, 131, 256], ids="V={}".format)
@pytest.mark.parametrize("version", [FLOAT32, BFLOAT16])
def test_every_number_of_a_published_file_arrives_under_its_name_and_goes_back_to_its_byte(tmp_path, V, version):
    sizes = {**SIZES, "V": V}
    arrays = random_arrays(**sizes)
    (tmp_path / "theirs.bin").write_bytes(checkpoint(arrays, version, **sizes))
    model = llmc.load(tmp_path / "theirs.bin")
    assert model.config == CONFIG.change(n_vocab=V)
    assert model.values.dtype == np.float32  # bfloat16 too: it is exact in float32
    if version == BFLOAT16:
        arrays = {name: (array.view("<u4") & 0xffff0000).view("<f4") for name, array in arrays.items()}
    wanted = by_our_names(arrays)
    found = {name: param.value for name, param in model.named_params()}
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert np.array_equal(value, wanted[name]), name
    llmc.save(model, tmp_path / "ours.bin", dtype={FLOAT32: "float32", BFLOAT16: "bfloat16"}[version])
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


def test_a_vocabulary_padded_further_than_to_128_loads_without_its_padding(tmp_path):
    arrays = random_arrays(**SIZES)
    wte = np.concatenate([arrays["wte"], np.full((300 - 131, 10), np.nan, "<f4")])
    data = header(20240326, 3, 7, 131, 3, 2, 10, 300) + wte.tobytes() + b"".join(
        array.tobytes() for name, array in arrays.items() if name != "wte")
    (tmp_path / "wide.bin").write_bytes(data)
    model = llmc.load(tmp_path / "wide.bin")
    for name, param in model.named_params():
        assert np.array_equal(param.value, by_our_names(arrays)[name]), name


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
@pytest.mark.parametrize("version", [FLOAT32, BFLOAT16])
def test_load_in_a_wider_dtype_keeps_every_number(tmp_path, version, dtype):
    (tmp_path / "m.bin").write_bytes(checkpoint(random_arrays(**SIZES), version, **SIZES))
    model, wide = llmc.load(tmp_path / "m.bin"), llmc.load(tmp_path / "m.bin", dtype=dtype)
    assert wide.values.dtype == dtype and np.array_equal(wide.values, model.values)
    assert all(np.shares_memory(param.value, wide.values) for param in wide.params())


def test_a_dtype_that_would_cut_weights_is_refused(tmp_path):
    (tmp_path / "m.bin").write_bytes(checkpoint(random_arrays(**SIZES), **SIZES))
    with pytest.raises(TypeError, match="int64 would cut them to zero"):
        llmc.load(tmp_path / "m.bin", dtype=int)


def test_a_loaded_model_does_without_its_file(tmp_path):
    (tmp_path / "m.bin").write_bytes(checkpoint(random_arrays(**SIZES), **SIZES))
    model = llmc.load(tmp_path / "m.bin")
    before = model.values.copy()
    llmc.save(GPT(CONFIG, seed=3), tmp_path / "m.bin")
    assert np.array_equal(model.values, before) and model.values.flags.writeable


def test_float64_weights_are_rounded_to_the_nearest_float32(tmp_path):
    model = GPT(CONFIG, dtype=np.float64)
    llmc.save(model, tmp_path / "m.bin")
    assert np.array_equal(llmc.load(tmp_path / "m.bin").values, model.values.astype(np.float32))


def test_bfloat16_rounds_to_nearest(tmp_path):
    model = GPT(CONFIG)
    llmc.save(model, tmp_path / "m.bin", dtype="bfloat16")
    error = np.abs(llmc.load(tmp_path / "m.bin").values - model.values)
    # 8 digits: half of the last is 2^-8 of the number at most. Cutting the rest off would reach 2^-7.
    assert (error <= 2**-8 * np.abs(model.values)).all()


def test_settings_of_training_are_left_out_of_the_file(tmp_path):
    trained = CONFIG.change(dropout_embd=0.1, dropout_attn=0.2, dropout_resid=0.3,
                            std=1.0, std_positions=0.1, std_residual=0.2)
    llmc.save(GPT(trained), tmp_path / "m.bin")
    assert llmc.load(tmp_path / "m.bin").config == CONFIG


@pytest.mark.parametrize("dtype", ["float16", np.float64, np.int32, "complex64"])
def test_save_refuses_a_dtype_that_llmc_does_not_have(tmp_path, dtype):
    with pytest.raises(TypeError, match=f"float32.* bfloat16; got {np.dtype(dtype).name}"):
        llmc.save(GPT(CONFIG), tmp_path / "m.bin", dtype=dtype)
    assert not list(tmp_path.iterdir())


# -- states


@pytest.mark.parametrize("V", [11, 128, 131], ids="V={}".format)
def test_every_number_of_a_published_state_arrives_under_its_name_and_goes_back_to_its_byte(tmp_path, V):
    sizes = {**SIZES, "V": V}
    ids, targets, logits, loss, grads = random_state(**sizes)
    (tmp_path / "theirs.bin").write_bytes(debug_state(ids, targets, logits, loss, grads))
    config = CONFIG.change(n_vocab=V)
    state = llmc.read_state(tmp_path / "theirs.bin", config)
    assert np.array_equal(state.ids, ids) and np.array_equal(state.targets, targets)
    assert np.array_equal(state.logits, logits) and state.loss == loss == 4.25
    wanted = by_our_names(grads)
    assert state.grads.keys() == wanted.keys()
    for name, grad in state.grads.items():
        assert np.array_equal(grad, wanted[name]), name
    assert {array.dtype for array in (state.logits, state.loss, *state.grads.values())} == {np.dtype(np.float32)}
    llmc.write_state(state, tmp_path / "ours.bin", config)
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


def test_state_of_is_what_the_model_makes_of_the_batch_and_survives_the_file(tmp_path):
    model, (ids, targets, *_) = GPT(CONFIG, seed=1), random_state(**SIZES)
    targets[0, 1] = -100  # llm.c has none, numgpt does
    state = llmc.state_of(model, ids, targets)
    loss, saved = model.forward(ids, targets)
    model.backward(saved)
    assert state.loss == loss and np.array_equal(state.logits, model.logits(ids))
    assert state.grads.keys() == {name for name, _ in model.named_params()}
    for name, param in model.named_params():
        assert np.array_equal(state.grads[name], param.grad) and param.grad.any(), name
    llmc.write_state(state, tmp_path / "state.bin", CONFIG)
    read = llmc.read_state(tmp_path / "state.bin", CONFIG)
    assert np.array_equal(read.ids, ids) and np.array_equal(read.targets, targets)
    assert read.loss == state.loss and np.array_equal(read.logits, state.logits)
    assert all(np.array_equal(read.grads[name], grad) for name, grad in state.grads.items())


def test_state_of_leaves_the_models_weights_and_gradients_alone():
    model, (ids, targets, *_) = GPT(CONFIG), random_state(**SIZES)
    model.grads[...] = 7
    before = model.values.copy()
    llmc.state_of(model, ids, targets)
    assert (model.grads == 7).all() and np.array_equal(model.values, before)


def test_the_state_of_a_float64_model_is_its_numbers_rounded_to_float32():
    model, (ids, targets, *_) = GPT(CONFIG, dtype=np.float64), random_state(**SIZES)
    state = llmc.state_of(model, ids.tolist(), targets.tolist())
    loss, saved = model.forward(ids, targets)
    model.backward(saved)
    assert state.ids.dtype == state.targets.dtype == np.int32
    assert isinstance(state.loss, np.float32) and state.loss == np.float32(loss)
    assert state.logits.dtype == np.float32 and np.array_equal(state.logits, model.logits(ids).astype(np.float32))
    for name, param in model.named_params():
        assert state.grads[name].dtype == np.float32
        assert np.array_equal(state.grads[name], param.grad.astype(np.float32)), name


# -- what llm.c cannot say

CANNOT = {
    "n_hidden": (30, "n_hidden=30"), "head_size": (3, "head_size=3 with 2 heads in a width of 10"),
    "norm": ("post", "norm='post'"), "norm_eps": (1e-6, "norm_eps=1e-06"), "activation": ("gelu", "activation='gelu'"),
    "positions": ("sinusoidal", "positions='sinusoidal'"), "tied": (False, "tied=False"),
    "head_bias": (True, "head_bias=True"), "bias": (False, "bias=False"), "scale_attn": (False, "scale_attn=False"),
    "scale_attn_by_layer": (True, "scale_attn_by_layer=True"), "window": (4, "window=4"),
}


@pytest.mark.parametrize("field", CANNOT)
def test_a_config_that_llmc_cannot_say_is_refused_by_name_and_nothing_is_written(tmp_path, field):
    value, named = CANNOT[field]
    config = CONFIG.change(**{field: value})
    says = re.escape(f"llm.c cannot say {named}; model.save can") + "$"
    state = llmc.State(*random_state(**SIZES))
    with pytest.raises(FormatError, match=says):
        llmc.save(GPT(config), tmp_path / "m.bin")
    with pytest.raises(FormatError, match=says):
        llmc.write_state(state, tmp_path / "s.bin", config)
    assert not list(tmp_path.iterdir())
    (tmp_path / "s.bin").write_bytes(debug_state(*random_state(**SIZES)))
    with pytest.raises(FormatError, match=says):
        llmc.read_state(tmp_path / "s.bin", config)


def test_every_field_of_a_config_is_in_the_header_or_of_training_or_refused():
    in_the_header = {"n_vocab", "n_ctx", "n_layer", "n_head", "n_embd"}
    of_training = {"dropout_embd", "dropout_attn", "dropout_resid", "std", "std_positions", "std_residual"}
    assert {field.name for field in dataclasses.fields(GPTConfig)} == in_the_header | of_training | CANNOT.keys()


def test_everything_that_cannot_be_said_is_named_at_once(tmp_path):
    with pytest.raises(FormatError) as error:
        llmc.save(GPT(CONFIG.change(**{field: value for field, (value, _) in CANNOT.items()})), tmp_path / "m.bin")
    assert all(named in str(error.value) for _, named in CANNOT.values())


def test_a_default_spelled_out_and_a_window_that_hides_nothing_change_no_byte(tmp_path):
    llmc.save(GPT(CONFIG), tmp_path / "plain.bin")
    for change in ({"n_hidden": 40}, {"head_size": 5}, {"window": 7}):
        llmc.save(GPT(CONFIG.change(**change)), tmp_path / "spelled.bin")
        assert (tmp_path / "spelled.bin").read_bytes() == (tmp_path / "plain.bin").read_bytes()
    llmc.save(GPT(CONFIG.change(n_layer=1, window=2)), tmp_path / "one.bin")  # only every second layer has the window


# -- files that are not what they claim to be

WEIGHTS_SIZE = 1024 + 4 * (256 * 10 + 7 * 10 + 3 * (12 * 100 + 13 * 10) + 2 * 10)
STATE_SIZE = 1024 + 4 * (2 * 6 + 6 * 131 + 1) + WEIGHTS_SIZE - 1024


def with_int(data, place, value):
    return data[:4 * place] + struct.pack("<i", value) + data[4 * place + 4:]


@pytest.mark.parametrize("damage, says", [
    (lambda data: b"", "has 0 bytes; the header of an llm.c file alone has 1024"),
    (lambda data: data[:1023], "has 1023 bytes; the header of an llm.c file alone has 1024"),
    (lambda data: data[:1024], f"has 1024 bytes; its header calls for {WEIGHTS_SIZE}"),
    (lambda data: data[:-1], f"has {WEIGHTS_SIZE - 1} bytes; its header calls for {WEIGHTS_SIZE}"),
    (lambda data: data + b"\0", f"has {WEIGHTS_SIZE + 1} bytes; its header calls for {WEIGHTS_SIZE}"),
    (lambda data: with_int(data, 0, 20240327), "begins with 20240327; llm.c's weights begin with 20240326"),
    (lambda data: data[3::-1] + data[4:], "begins with .*; llm.c's weights begin with 20240326"),  # big-endian
    (lambda data: with_int(data, 1, 1), r"has version 1 of llm.c's weights; numgpt reads 3 \(float32\) and 5"),
    (lambda data: with_int(data, 1, 4), "has version 4"),
    (lambda data: with_int(data, 1, 5), f"has {WEIGHTS_SIZE} bytes; its header calls for {512 + WEIGHTS_SIZE // 2}"),
    (lambda data: with_int(data, 2, 0), "its header is not one: n_ctx must be from 1 to 2.*; got 0"),
    (lambda data: with_int(data, 3, 0), "its header is not one: n_vocab must be from 1 to 2.*; got 0"),
    (lambda data: with_int(data, 3, -131), "its header is not one: n_vocab must be from 1 to 2.*; got -131"),
    (lambda data: with_int(data, 4, 0), "its header is not one: n_layer must be from 1 to 2.*; got 0"),
    (lambda data: with_int(data, 5, -2), "its header is not one: n_head must be from 1 to 2.*; got -2"),
    (lambda data: with_int(data, 5, 3), "its header is not one: n_embd 10 does not split into n_head 3"),
    (lambda data: with_int(data, 6, 0), "its header is not one: n_embd must be from 1 to 2.*; got 0"),
    (lambda data: with_int(data, 7, 130), "its header pads a vocabulary of 131 to 130"),
    (lambda data: with_int(data, 7, -256), "its header pads a vocabulary of 131 to -256"),
    (lambda data: with_int(data, 7, 255), f"has {WEIGHTS_SIZE} bytes; its header calls for {WEIGHTS_SIZE - 40}"),
    (lambda data: with_int(data, 2, 8), f"has {WEIGHTS_SIZE} bytes; its header calls for {WEIGHTS_SIZE + 40}"),
    # Sizes for which no machine has the memory: the file's own size is looked at first.
    (lambda data: header(20240326, 3, *[2**31 - 1] * 6), "has 1024 bytes; its header calls for"),
])
def test_a_damaged_checkpoint_is_refused_with_a_sentence_that_names_it(tmp_path, damage, says):
    data = checkpoint(random_arrays(**SIZES), **SIZES)
    assert len(data) == WEIGHTS_SIZE
    (tmp_path / "m.bin").write_bytes(damage(data))
    with pytest.raises(FormatError, match="m.bin:? " + says):
        llmc.load(tmp_path / "m.bin")


@pytest.mark.parametrize("damage, says", [
    (lambda data: b"", "has 0 bytes; the header of an llm.c file alone has 1024"),
    (lambda data: data[:1020], "has 1020 bytes; the header of an llm.c file alone has 1024"),
    (lambda data: data[:-1], f"has {STATE_SIZE - 1} bytes; .* calls for {STATE_SIZE}"),
    (lambda data: data + b"\0", f"has {STATE_SIZE + 1} bytes; .* calls for {STATE_SIZE}"),
    (lambda data: with_int(data, 0, 20240326), "begins with 20240326; llm.c's debug states begin with 20240327"),
    (lambda data: with_int(data, 1, 1), "has version 1 of llm.c's debug state; numgpt reads 2"),
    (lambda data: with_int(data, 2, 0), "has a batch of 0 x 3 tokens"),
    (lambda data: with_int(data, 2, -2), "has a batch of -2 x 3 tokens"),
    (lambda data: with_int(data, 3, 0), "has a batch of 2 x 0 tokens"),
    (lambda data: with_int(data, 3, 8), "has a batch of 2 x 8 tokens; the config has a context of 7"),
    (lambda data: with_int(data, 2, 2**31 - 1), f"has {STATE_SIZE} bytes; .* calls for"),
    (lambda data: with_int(data, 256, -1), "has token ids that are not in a vocabulary of 131"),
    (lambda data: with_int(data, 261, 131), "has token ids that are not in a vocabulary of 131"),  # of the padding
    (lambda data: with_int(data, 262, -1), "has token ids that are not in a vocabulary of 131"),
    (lambda data: with_int(data, 267, 131), "has token ids that are not in a vocabulary of 131"),
    (lambda data: with_int(data, 256, -100), "has token ids that are not in a vocabulary of 131"),  # for targets alone
])
def test_a_damaged_state_is_refused_with_a_sentence_that_names_it(tmp_path, damage, says):
    data = debug_state(*random_state(**SIZES))
    assert len(data) == STATE_SIZE
    (tmp_path / "s.bin").write_bytes(damage(data))
    with pytest.raises(FormatError, match="s.bin " + says):
        llmc.read_state(tmp_path / "s.bin", CONFIG)


@pytest.mark.parametrize("change", [{"n_vocab": 130}, {"n_layer": 2}, {"n_embd": 12}, {"n_ctx": 8}, {"n_vocab": 257}])
def test_the_state_of_a_model_of_another_size_is_refused(tmp_path, change):
    (tmp_path / "s.bin").write_bytes(debug_state(*random_state(**SIZES)))
    with pytest.raises(FormatError, match=f"s.bin has {STATE_SIZE} bytes; .* calls for"):
        llmc.read_state(tmp_path / "s.bin", CONFIG.change(**change))


@pytest.mark.parametrize("T", [1, 7])
def test_a_state_may_have_one_token_or_the_whole_context(tmp_path, T):
    ids, *rest = random_state(B=1, t=T, **SIZES)
    (tmp_path / "s.bin").write_bytes(debug_state(ids, *rest))
    assert np.array_equal(llmc.read_state(tmp_path / "s.bin", CONFIG).ids, ids)


# -- beside transformers


def transformers_writes(folder, fill, dtype):
    """GPT-2 of transformers with weights from fill(name, tensor), its checkpoint, and its state computed in dtype.

    Returns the state's numbers as they were computed, by llm.c's names.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import GPT2Config, GPT2LMHeadModel

    T, V, L, H, C = SIZES.values()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=T, n_layer=L, n_head=H, n_embd=C,
                                       bos_token_id=None, eos_token_id=None, attn_implementation="eager"))
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(torch.from_numpy(fill(name, tuple(param.shape)).astype(np.float32)))
    model = model.to(dtype).eval()

    def arrays(of):
        """What llm.c takes from each parameter; transformers' Conv1D is (in, out)."""
        params = {name: of(param).detach().numpy() for name, param in model.transformer.named_parameters()}
        theirs = dict(ln1w="ln_1.weight", ln1b="ln_1.bias", qkvw="attn.c_attn.weight", qkvb="attn.c_attn.bias",
                      attprojw="attn.c_proj.weight", attprojb="attn.c_proj.bias", ln2w="ln_2.weight", ln2b="ln_2.bias",
                      fcw="mlp.c_fc.weight", fcb="mlp.c_fc.bias", fcprojw="mlp.c_proj.weight",
                      fcprojb="mlp.c_proj.bias")
        layered = {name: np.stack([params[f"h.{i}.{inside}"].T for i in range(L)]) for name, inside in theirs.items()}
        return {"wte": params["wte.weight"], "wpe": params["wpe.weight"], **layered,
                "lnfw": params["ln_f.weight"], "lnfb": params["ln_f.bias"]}

    ids, targets = np.random.default_rng(5).integers(0, V, (2, 4, T))
    logits = model(torch.from_numpy(ids)).logits
    loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    state = ids, targets, logits.detach().numpy(), loss.item(), arrays(lambda param: param.grad)
    (folder / "gpt2.bin").write_bytes(checkpoint(arrays(lambda param: param), **SIZES))
    (folder / "gpt2_debug_state.bin").write_bytes(debug_state(*state))
    return state


def order_one(name, shape):
    """Matrices that keep the size of what they multiply, as the token table does in the head; the rest normal."""
    rng = np.random.default_rng([*name.encode()])
    fan_in = SIZES["C"] if "wte" in name else shape[0] if len(shape) == 2 and "wpe" not in name else 1
    return rng.standard_normal(shape) / np.sqrt(fan_in)


def usual(name, shape):
    rng = np.random.default_rng([*name.encode()])
    if len(shape) == 1:
        return np.full(shape, float("ln_" in name and name.endswith("weight")))
    return rng.normal(0, 0.02 / np.sqrt(2 * SIZES["L"]) if "c_proj" in name else 0.02, shape)


def errors(found, truth):
    """Of a state: each tensor's largest difference, as a part of its largest element."""
    found, truth = ({"logits": state.logits, "loss": state.loss, **state.grads} for state in (found, truth))
    assert found.keys() == truth.keys()
    return {name: np.abs(found[name].astype(float) - truth[name]).max() / np.abs(truth[name]).max() for name in truth}


def beyond(tolerance, found):
    return {name: error for name, error in found.items() if not error <= tolerance}  # not <=: nan is beyond too


@pytest.mark.verify
def test_a_state_that_transformers_made_at_weights_of_order_one_is_numgpts_to_the_last_digit_of_the_file(tmp_path):
    # Both sides compute in float64, where they differ by 1e-15, and are rounded to float32: to the same number, or to
    # two neighbours, which are 2^-23 apart at most. Measured: the same numbers, but in the key bias's gradient, where
    # all is rounding: 3e-16.
    import torch
    transformers_writes(tmp_path, order_one, torch.float64)
    model = llmc.load(tmp_path / "gpt2.bin", dtype=np.float64)
    state = llmc.read_state(tmp_path / "gpt2_debug_state.bin", model.config)
    assert not beyond(2**-23, errors(llmc.state_of(model, state.ids, state.targets), state))


@pytest.mark.verify
def test_in_float32_at_the_usual_start_numgpt_is_within_2e_6_of_transformers_float64(tmp_path):
    # A few units in the last place, 6e-8 each, add up over three layers. The worst tensor of ten draws was 8.7e-7 off,
    # and that of transformers' own float32 1.4e-6; the logits 2.1e-7 and 2.1e-7.
    import torch
    transformers_writes(tmp_path, usual, torch.float64)
    model = llmc.load(tmp_path / "gpt2.bin")
    state = llmc.read_state(tmp_path / "gpt2_debug_state.bin", model.config)
    found = llmc.state_of(model, state.ids, state.targets)
    assert model.values.dtype == np.float32
    assert not beyond(2e-6, errors(found, state))


@pytest.mark.verify
def test_no_gradient_of_the_comparison_is_so_small_that_zeros_would_pass(tmp_path):
    import torch
    *_, grads = transformers_writes(tmp_path, order_one, torch.float64)
    model = llmc.load(tmp_path / "gpt2.bin", dtype=np.float64)
    state = llmc.read_state(tmp_path / "gpt2_debug_state.bin", model.config)
    found = errors(dataclasses.replace(state, grads={name: 0 * grad for name, grad in state.grads.items()}), state)
    assert all(found[name] == 1 for name in by_our_names(grads))


# -- what was found by trying to break it


@pytest.mark.parametrize("change, says", [
    ({"n_vocab": 5}, r"the config calls for \(5, 10\) as the shape of embedding.table; the state has \(11, 10\)"),
    ({"n_layer": 9}, r"shape of blocks.\d.norm1.gain; the state has None"),
    ({"n_embd": 20}, "as the shape of embedding.table"),
])
def test_a_state_of_another_model_is_not_written(tmp_path, change, says):
    config = GPTConfig(n_vocab=11, n_ctx=7, n_layer=2, n_head=2, n_embd=10)
    state = llmc.state_of(GPT(config), [[1, 2, 3]], [[2, 3, 4]])
    with pytest.raises(ValueError, match=says):
        llmc.write_state(state, tmp_path / "state", config.change(**change))
    with pytest.raises(ValueError, match="sequences of 3 tokens; the config has a context of 2"):
        short = dataclasses.replace(state, grads=state.grads | {"positions.table": state.grads["positions.table"][:2]})
        llmc.write_state(short, tmp_path / "state", config.change(n_ctx=2))
    assert not (tmp_path / "state").exists()


def test_complex_models_are_not_halved(tmp_path):
    model = GPT(CONFIG, dtype=np.complex128)
    with pytest.raises(TypeError, match="a debug state, whose numbers are float32, would lose half of it"):
        llmc.state_of(model, [[1]], [[2]])
    with pytest.raises(TypeError, match="the model is complex; float32 would lose half of it"):
        llmc.save(model, tmp_path / "w.bin")
