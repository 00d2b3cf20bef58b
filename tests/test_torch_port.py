"""The port in torch is right where nothing is planted, beside torch's autograd, and wrong where something is."""

from pathlib import Path

import numpy as np
import pytest
from torch_port_mistakes import FORMS, MISTAKES, OF_THE_GRADIENT, OF_THE_STEP, STRANGE

from numgpt.verify import mutants

pytestmark = pytest.mark.verify

# Coprime, but for the width, which is heads times head size in most models.
B, T, H, D, C, F, V, L = 3, 7, 2, 5, 10, 40, 31, 2
TOLERANCE = 1e-12  # norm-wise; the largest distance of a gradient seen was 4e-15
SEEN = 1e-9  # a mistake that changes less than this is not there
OPTIMIZER = dict(steps=3, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip=0.5, accumulate=2)


def adversary(seed=0, *, norm="pre", tied=False, head_bias=True, activation="gelu_tanh", dropout=0.0, eps=1e-5,
              sizes=(B, T, H, D, C, F, V, L)):
    """Weights of order one, ids that repeat, and a quarter of the targets ignored: (weights, ids, targets, settings)."""
    B, T, H, D, C, F, V, L = sizes
    rng = np.random.default_rng(seed)
    shapes = {"embedding.table": (V, C), "positions.table": (T + 2, C)}
    for i in range(L):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in {
            "norm1.gain": (C,), "norm1.bias": (C,), "norm2.gain": (C,), "norm2.bias": (C,),
            "attention.qkv.weight": (C, 3 * H * D), "attention.qkv.bias": (3 * H * D,),
            "attention.out.weight": (H * D, C), "attention.out.bias": (C,),
            "ffn.up.weight": (C, F), "ffn.up.bias": (F,), "ffn.down.weight": (F, C), "ffn.down.bias": (C,)}.items()}
    if norm == "pre":
        shapes |= {"norm.gain": (C,), "norm.bias": (C,)}
    if not tied:
        shapes["head.weight"] = (C, V)
    if head_bias:
        shapes["head.bias"] = (V,)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name in weights:
        if name.endswith(".weight"):
            weights[name] /= np.float32(np.sqrt(len(weights[name])))
    ids, targets = rng.integers(0, max(1, V // 3), (B, T)), rng.integers(0, V, (B, T))
    # The last token of all counts: were every sequence's last ignored, nothing would be seen of its query.
    targets.flat[rng.permutation(B * T - 1)[:B * T // 4]] = -100
    masks = {"dropout": (B, T, C)}
    for i in range(L):
        masks |= {f"blocks.{i}.attention.kept": (B, H, T, T), f"blocks.{i}.attention.dropped": (B, T, C),
                  f"blocks.{i}.ffn.dropped": (B, T, C)}
    masks = {name: rng.random(shape) >= dropout for name, shape in masks.items()}
    settings = dict(n_layer=L, n_head=H, norm=norm, norm_eps=eps, activation=activation, tied=tied, dropout_embd=dropout,
                    dropout_attn=dropout, dropout_resid=dropout, masks=masks if dropout else {})
    return weights, ids, targets, settings


def run(*case, **options):
    import torch_port  # not above: the plain suite reads this file too, and is not to wait for torch
    return torch_port.run(*case, **options)


def leaves(weights):
    import torch
    return {name: torch.tensor(a, dtype=torch.float64, requires_grad=True) for name, a in weights.items()}


def forward(w, ids, targets, settings):
    """The port's forward over leaves, for torch to differentiate."""
    import torch
    import torch_port
    masks = {name: torch.tensor(mask) for name, mask in settings["masks"].items()}
    return torch_port.Port(w, settings, torch.tensor(ids), torch.tensor(targets), masks).forward()


def by_autograd(weights, *case):
    """The port's forward, and every gradient of it as torch finds it."""
    w = leaves(weights)
    f = forward(w, *case)
    for y in f.values():
        y.retain_grad()
    f["loss"].backward()
    found = {f"forward.{name}": y.detach() for name, y in f.items()}
    found |= {f"backward.{name}": y.grad for name, y in f.items() if name not in ("loss", "probabilities")}
    return {name: a.numpy() for name, a in (found | {f"grads.{name}": a.grad for name, a in w.items()}).items()}


def distance(found, truth):
    """Norm-wise; equal numbers, infinite ones too, are no distance apart."""
    found, truth = np.float64(found), np.float64(truth)
    difference = np.where(found == truth, 0, found - np.where(np.isfinite(truth), truth, 0))
    return np.linalg.norm(difference) / (np.linalg.norm(truth[np.isfinite(truth)]) or 1)


CASES = [{"norm": norm, "tied": tied, "head_bias": bias, "dropout": p}
         for norm in ("pre", "post") for tied in (False, True) for bias in (False, True) for p in (0.0, 0.3)]
CASES += [{"activation": name, "norm": norm} for name in ("gelu", "relu") for norm in ("pre", "post")]
CASES += [{"sizes": (2, 3, 3, 4, 11, 5, 7, 1)}, {"sizes": (1, 1, 1, 1, 5, 1, 2, 3)}, {"eps": 0.1}]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ",".join(f"{name}={value}" for name, value in case.items()))
def test_every_gradient_is_the_one_torch_finds(case):
    case = adversary(**case)
    found, truth = run(*case), by_autograd(*case)
    assert set(truth) == {name for name in found if name.startswith(("forward.", "backward.", "grads."))}
    assert {name: found[name].shape for name in truth} == {name: a.shape for name, a in truth.items()}
    for name in truth:
        assert distance(found[name], truth[name]) <= TOLERANCE, name


def test_the_loss_is_the_cross_entropy_of_torch():
    import torch
    weights, ids, targets, settings = adversary()
    found = run(weights, ids, targets, settings)
    logits = torch.tensor(found["forward.logits"]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets).flatten(), ignore_index=-100)
    assert abs(found["forward.loss"] - loss.item()) <= TOLERANCE * loss.item()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_names_come_in_the_order_of_execution(norm):
    """Backward is forward reversed, and each layer's weights stand after the gradient of its output."""
    names = list(run(*adversary(norm=norm, dropout=0.3)))
    forward = [name.removeprefix("forward.") for name in names if name.startswith("forward.")]
    backward = [name.removeprefix("backward.") for name in names if name.startswith("backward.")]
    assert backward == [name for name in reversed(forward) if name not in ("loss", "probabilities")]
    for name in names:
        if name.startswith("grads."):
            output = {"embedding": "embedding", "positions": "positions", "head": "logits"}.get(
                name.split(".")[1], name.split(".", 1)[1].rpartition(".")[0])
            after = names[names.index("backward." + output) + 1:names.index(name)]
            assert all(between.startswith("grads.") for between in after), name


def case_of(mistake, **options):
    slug = mistake.split(":")[0]
    return adversary(tied=slug.startswith("tie-"), dropout=0.3 if slug.startswith("dropout-") else 0.0, **options)


def changed(mistake, case, **options):
    found, truth = run(*case, mistake=mistake, **options), run(*case, **options)
    assert {name: (a.shape, a.dtype) for name, a in found.items()} == {name: (a.shape, a.dtype) for name, a in truth.items()}
    return {name for name in truth if not distance(found[name], truth[name]) <= SEEN}


@pytest.mark.parametrize("mistake", [m for m in MISTAKES + FORMS if m.split(":")[0] not in OF_THE_STEP] + STRANGE)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_planted_mistake_shows_in_the_gradient(mistake, norm):
    found = changed(mistake, case_of(mistake, norm=norm))
    assert any(name.startswith("grads.") for name in found)
    in_forward = {"ce-count:2", "ce-no-division:2", "scale-by-width:2", "ln-ddof:3", "mask-after-softmax",
                  "mask-after-softmax:2", "mask-off-by-one"}
    assert any(name.startswith("forward.") for name in found) == (mistake in in_forward)


@pytest.mark.parametrize("mistake", [m for m in MISTAKES + FORMS if m.split(":")[0] in OF_THE_STEP])
def test_a_mistake_of_the_step_shows_there_alone(mistake):
    found = changed(mistake, adversary(), optimizer=OPTIMIZER)
    assert any(name.startswith("steps.1.") or name.startswith("steps.2.weights") for name in found)
    assert not any(name.startswith(("forward.", "backward.", "grads.")) for name in found)


@pytest.mark.parametrize("case", [
    {"norm": "post", "tied": True, "dropout": 0.3}, {"activation": "relu", "head_bias": False},
    {"sizes": (2, 3, 3, 4, 11, 5, 7, 1), "activation": "gelu"}, {"sizes": (1, 1, 1, 1, 2, 1, 2, 1)}], ids=str)
def test_every_mistake_runs_in_every_model(case):
    case = adversary(**case)
    for mistake in MISTAKES + FORMS + STRANGE:
        found = run(*case, mistake=mistake, dtype="float32", optimizer={**OPTIMIZER, "accumulate": 1, "steps": 1})
        assert all(a.dtype == np.float32 for name, a in found.items() if not name.startswith(("inputs.", "masks."))), mistake


def test_what_bugs_do_to_a_gradient_by_a_factor():
    """The marks of the catalogue that say how many times too large a gradient is."""
    case = adversary()
    right, counted = run(*case), (case[2] != -100).sum()

    def factor(mistake, name):
        found = run(*case, mistake=mistake)[name]
        a = (found * right[name]).sum() / (right[name] ** 2).sum()
        assert distance(found, a * right[name]) <= TOLERANCE
        return a

    for name in ("grads.norm.gain", "grads.embedding.table", "grads.blocks.0.attention.qkv.weight"):
        assert factor("ce-count", name) == pytest.approx(counted / (B * T), rel=TOLERANCE)
        assert factor("ce-no-division", name) == pytest.approx(counted, rel=TOLERANCE)
        assert factor("ce-sign", name) == pytest.approx(-1, rel=TOLERANCE)
    for name in ("q", "k"):
        name = f"backward.blocks.{L - 1}.attention.{name}"
        assert factor("scale-missing", name) == pytest.approx(np.sqrt(D), rel=TOLERANCE)
        assert factor("scale-by-width", name) == pytest.approx(np.sqrt(1 / H), rel=TOLERANCE)
    assert factor("b-mean", f"grads.blocks.{L - 1}.ffn.down.bias") == pytest.approx(1 / (B * T), rel=TOLERANCE)
    assert factor("pos-mean", "grads.positions.table") == pytest.approx(1 / B, rel=TOLERANCE)
    # Almost: rstd has eps beside the variance, which is 1e-5 of it.
    dx, counts = f"backward.blocks.{L - 1}.sum2", case[2] != -100
    ratio = run(*case, mistake="ln-ddof")[dx][counts] / right[dx][counts]
    assert np.allclose(ratio, np.sqrt((C - 1) / C), rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_three_steps_are_those_of_torchs_adamw(tied, accumulate):
    import torch
    weights, ids, targets, settings = adversary(tied=tied, dropout=0.3)
    # The key bias's gradient is 1e-17 of rounding, which an eps of 1e-8 makes 1e-9 of a step: 1.5e-12 of the bias.
    o = {**OPTIMIZER, "accumulate": accumulate, "eps": 1e-6}
    found = run(weights, ids, targets, settings, optimizer=o)
    w = leaves(weights)
    groups = [{"params": [p for p in w.values() if p.ndim == 2], "weight_decay": o["weight_decay"]},
              {"params": [p for p in w.values() if p.ndim != 2], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=o["lr"], betas=o["betas"], eps=o["eps"])
    for t in range(1, o["steps"] + 1):
        adam.zero_grad()
        loss = forward(w, ids, targets, settings)["loss"]
        loss.backward()
        truth = {f"grads.{name}": p.grad.clone() for name, p in w.items()}
        truth["norm"] = torch.nn.utils.clip_grad_norm_(list(w.values()), o["clip"])
        assert truth["norm"] > o["clip"]
        adam.step()
        truth |= {f"weights.{name}": p.detach() for name, p in w.items()} | {"loss": loss.detach()}
        truth |= {f"{kind}.{name}": adam.state[p][key] for name, p in w.items()
                  for kind, key in (("m", "exp_avg"), ("v", "exp_avg_sq"))}
        for name, a in truth.items():
            assert distance(found[f"steps.{t}.{name}"], a.numpy()) <= TOLERANCE, (t, name)
    assert found["clip.norm"] == pytest.approx(found["steps.1.norm"], rel=TOLERANCE)


def test_the_catalogue_is_the_one_of_the_mutants_and_each_mistake_is_planted():
    assert set(OF_THE_GRADIENT) == set(mutants.names("gradient")) - {"mask-finite"} and set(OF_THE_STEP) == set(mutants.names("step"))
    assert len(MISTAKES) == 59
    assert {form.split(":")[0] for form in FORMS} <= set(MISTAKES)
    code = Path(__file__).with_name("torch_port.py").read_text()
    assert "import numgpt" not in code and "from numgpt" not in code
    for slug in MISTAKES + STRANGE:
        assert f'wrong("{slug}")' in code, slug


@pytest.mark.parametrize("mistake", ["ln-no-gaim", "ln-no-gain:2", "softmax-axis:4"])
def test_a_mistake_that_is_not_there_is_refused(mistake):
    with pytest.raises(ValueError, match=f"no mistake '{mistake}'"):
        run(*adversary(), mistake=mistake)
