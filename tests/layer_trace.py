"""A trace of one of our models, by looking at its layers from outside: what other people's are held against."""

import re

import numpy as np

from numgpt import GPT, GPTConfig
from numgpt.layers import ops
from numgpt.verify import cases

B, T, H, D, C, F, V, CONTEXT = 2, 7, 3, 5, 15, 17, 13, 11

# Of a tensor's length. The largest difference seen, over all of these models, was 1.6e-14, in a gradient of q.
TOLERANCE = 1e-12
PRE, POST = GPTConfig(V, CONTEXT, 2, H, C), GPTConfig(V, CONTEXT, 2, H, C, norm="post")


def made(config=PRE, seed=1):
    return cases.order_one(GPT(config, dtype=np.float64), np.random.default_rng(seed))


def batch(seed=1):
    """Ids of which some repeat, and targets of which some do not count."""
    rng, sizes = np.random.default_rng((seed, 2)), cases.Sizes(B=B, T=T, V=V)
    ids, targets = cases.ids_of(rng, sizes), cases.targets_of(rng, sizes)
    targets[0, 1], targets[1, 0] = -100, ids[0, 0]
    return ids, targets


def of_layers(model, ids, targets):
    """The trace of a model of ours without dropout, from what its layers are given and give back."""
    ins, outs, dys, dxs = {}, {}, {}, {}

    def watch(name, layer):
        forward, backward = layer.forward, layer.backward

        def seen_forward(*inputs, **options):
            y, saved = forward(*inputs, **options)
            ins[name], outs[name] = inputs, (y, saved)
            return y, saved

        def seen_backward(dy, saved):
            dys[name], dxs[name] = dy, (dx := backward(dy, saved))
            return dx
        layer.forward, layer.backward = seen_forward, seen_backward

    for name, layer in model.named_layers():
        watch(name, layer)
    model.zero_grad()
    loss, saved = model.forward(ids, targets)
    model.backward(saved)

    weights = {name: param.value for name, param in model.named_params()}
    logits, counts = model.logits(ids), targets != -100
    forward = {"logits": logits, "loss": np.asarray(loss)}
    backward = {"logits": (ops.softmax(logits) - np.eye(V)[targets % V]) * counts[..., None] / counts.sum()}
    outer = ["embedding", "positions"] + ["norm"] * (model.config.norm == "pre")
    for name in outer + [f"blocks.{i}.{part}" for i in range(model.config.n_layer) for part in (
            "norm1", "attention.qkv", "attention.out", "norm2", "ffn.up", "ffn.activation", "ffn.down")]:
        forward[name], backward[name] = outs[name][0], dys[name]
    for P in [f"blocks.{i}" for i in range(model.config.n_layer)]:
        inner, out = f"{P}.attention.attention", f"{P}.attention.out"
        first, second = ("norm2", None) if model.config.norm == "pre" else ("norm1", "norm2")
        forward |= {f"{P}.attention.{part}": x for part, x in zip("qkv", ins[inner])}
        backward |= {f"{P}.attention.{part}": dx for part, dx in zip("qkv", dxs[inner])}
        forward[f"{P}.attention.probabilities"] = outs[inner][1][-1][0][0]  # of the only tile
        backward[f"{P}.attention.probabilities"] = dys[inner] @ ins[inner][2].swapaxes(-1, -2)
        forward[f"{P}.attention.mixed"], backward[f"{P}.attention.mixed"] = ins[out][0], dxs[out]
        # A sum's gradient is that of its last part, which has come in no other way.
        forward[f"{P}.sum1"], backward[f"{P}.sum1"] = ins[f"{P}.{first}"][0], dys[out]
        forward[f"{P}.sum2"] = ins[f"{P}.{second}"][0] if second else outs[P][0]
        backward[f"{P}.sum2"] = dys[f"{P}.ffn.down"]
    return {"inputs.ids": ids, "inputs.targets": targets, "clip.norm": np.linalg.norm(model.grads),
            **{f"weights.{name}": array for name, array in weights.items()},
            **{f"forward.{name}": array for name, array in forward.items()},
            **{f"backward.{name}": array for name, array in backward.items()},
            **{f"grads.{name}": param.grad for name, param in model.named_params()}}


def beyond(found, truth, tolerance=TOLERANCE, without="$^"):
    """What is too far away, by name; both must have the same names, but for those in which the pattern occurs."""
    truth = {name: array for name, array in truth.items() if not re.search(without, name)}
    assert found.keys() == truth.keys(), sorted(found.keys() ^ truth.keys())
    assert {name: array.shape for name, array in found.items()} == {name: np.shape(array) for name, array in truth.items()}
    errors = {name: np.linalg.norm(found[name] - truth[name]) / np.linalg.norm(truth[name]) for name in truth}
    return {name: error for name, error in errors.items() if not error <= tolerance}  # not <=: nan is beyond too
