"""A JAX function's own numbers under the names of a trace."""

import inspect
from collections.abc import Iterable

import numpy as np

from numgpt.verify.adapters import Missing
from numgpt.verify.foreign import THEIR_PARAMETERS, checked, heads_apart, joined, laid_out, trace_of
from numgpt.verify.names import TENSORS, is_ours, listed, renamed, targets_of


def jax_trace(function, params, ids, targets, names=None, path=None, weights=True, *, n_head=None) -> dict[str, np.ndarray]:
    """What a JAX function makes of a batch, and its gradients, as arrays under the names of a trace.

        jax_trace(lambda params, ids: ..., params, ids, targets)
        def function(params, ids, see):
            x = see("embedding", params["embedding"]["table"][ids])
            ...
        jax_trace(function, params, ids, targets, {"layers.*.ln.g": "blocks.*.norm1.gain"})

    function(params, ids) gives logits (B, T, V); where it takes see as a third argument, see(name, x) gives x back and
    records it, and its gradient: that by zeros which are added to it. params: dicts and lists in each other; a leaf's name
    is its path with dots. names: their name of a leaf or of what is seen -> ours, with * for a layer's number; what is not
    named there may have our name already. Weights are taken to be (in, out), or turned if our name for them ends in .T.
    The loss is made here, as torch_trace makes it. n_head: to take q, k and v apart where qkv is seen.

    The function is not compiled here, and one that jax.jit made is taken as it was before if it takes see. Numbers are
    float64 if jax_enable_x64 is on, float32 if not.
    """
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        raise Missing("tracing a JAX function takes jax: pip install 'numgpt[verify]'") from None
    if not callable(function):
        raise TypeError(f"jax_trace wants a function of params and ids; got {type(function).__name__}")
    ids, targets = np.asarray(ids), np.asarray(targets)
    for a, what in ((ids, "ids"), (targets, "targets")):
        if a.dtype.kind not in "iu" or a.ndim != 2 or a.shape != ids.shape:
            raise ValueError(f"{what} must be whole numbers (B, T), as many as ids; got {a.dtype} of shape {a.shape}")
    names, looks = dict(names or {}), _takes_see(function)
    plain = getattr(function, "__wrapped__", function) if looks else function
    held, tree = jax.tree_util.tree_flatten_with_path(params)
    leaves = {".".join(str(_key(step)) for step in way): leaf for way, leaf in held}
    floating = {name: jnp.asarray(leaf) for name, leaf in leaves.items()
                if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)}

    def run(floating, see):
        filled = jax.tree_util.tree_unflatten(tree, [floating.get(name, leaf) for name, leaf in leaves.items()])
        logits = plain(filled, jnp.asarray(ids), see.theirs) if looks else plain(filled, jnp.asarray(ids))
        if getattr(logits, "ndim", 0) != 3 or logits.shape[:2] != ids.shape:
            raise ValueError(f"the function must give logits (B, T, V) for ids {ids.shape}; it gave "
                             f"{getattr(logits, 'shape', type(logits).__name__)}")
        for a, what in ((ids, "id"), (targets[targets != -100], "target")):
            outside = a[(a < 0) | (a >= logits.shape[-1])]
            if outside.size:  # JAX would take the nearest that exists, and say nothing
                raise ValueError(f"{what}s must be from 0 to {logits.shape[-1] - 1}; there is a {outside[0]}")
        logits = see("logits", logits)
        surprise = -jnp.take_along_axis(jax.nn.log_softmax(logits), np.maximum(targets, 0)[..., None], -1)[..., 0]
        return jnp.where(targets == -100, 0, surprise).sum() / max((targets != -100).sum().item(), 1)

    first = See(names, jax)
    loss = run(floating, first)
    targets_of([*leaves, *first.asked], names, "the name of a leaf of params or of anything seen")
    of = _named(floating, names)
    if not of:
        raise ValueError("no leaf of params has a name that is known: say names={their name: ours}, "
                         f"theirs being {listed(leaves)}")
    zeros = {name: jnp.zeros_like(x) for name, x in first.seen.items()}
    slopes, backward = jax.grad(lambda floating, zeros: run(floating, See(names, jax, zeros)), (0, 1))(floating, zeros)

    values, grads = (joined({ours.removesuffix(".T"): laid_out(ours, _array(found[name]), ours.endswith(".T"))
                             for name, ours in of.items()}) for found in (floating, slopes))
    forward, backward = ({name: _array(x) for name, x in found.items()} for found in (first.seen, backward))
    for tensors in (forward, backward):
        heads_apart(tensors, lambda _: n_head)
    return trace_of(ids, targets, values if weights else {}, forward, _array(loss), backward, grads,
                    [_array(slope) for slope in slopes.values()], path)


class See:
    """What is seen, by our names; and, given zeros of the same shapes, they are added to it to be differentiated by."""

    def __init__(self, names, jax, zeros=None):
        self.names, self.jax, self.zeros = names, jax, zeros
        self.seen, self.asked = {}, []

    def theirs(self, name: str, x):
        """see as a caller has it, with names of theirs or ours."""
        self.asked.append(name)
        ours = checked(renamed(name, self.names) or name, TENSORS)
        if ours == "logits":  # the function's result is looked at by itself
            return x
        return self(ours, x)

    def __call__(self, ours: str, x):
        if ours in self.seen:
            raise ValueError(f"{ours!r} was seen twice: a name is one tensor")
        if self.zeros is None and isinstance(x, self.jax.core.Tracer):
            raise ValueError(f"{ours!r} is seen inside of what JAX traces by itself (jit, scan, vmap), from where it cannot "
                             "come out: run under jax.disable_jit(), or see it outside")
        if not (hasattr(x, "dtype") and self.jax.numpy.issubdtype(x.dtype, np.floating)):
            raise TypeError(f"{ours!r} must be an array of floating-point numbers; "
                            f"it is {getattr(x, 'dtype', type(x).__name__)}")
        self.seen[ours] = x
        return x if self.zeros is None else x + self.zeros[ours]


def _named(leaves: Iterable[str], names) -> dict[str, str]:
    """Our name of each leaf that has one."""
    of, whose = {}, {}
    for name in leaves:
        ours = renamed(name, names) or (name if is_ours(name, THEIR_PARAMETERS) else None)
        if ours is not None:
            of[name] = checked(ours, THEIR_PARAMETERS)
            if whose.setdefault(ours.removesuffix(".T"), name) != name:
                raise ValueError(f"{whose[ours.removesuffix('.T')]!r} and {name!r} cannot both be {ours!r}")
    return of


def _takes_see(function) -> bool:
    """Whether there is a third argument that is called see or has to be given."""
    try:
        kinds = list(inspect.signature(function).parameters.values())
    except ValueError:  # functions of C do not say
        return False
    kinds = [one for one in kinds if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return len(kinds) > 2 and (kinds[2].name == "see" or kinds[2].default is kinds[2].empty)


def _key(step):
    """One step of the path to a leaf: a dict's key, a list's place, an object's field."""
    for attribute in ("key", "idx", "name"):
        if hasattr(step, attribute):
            return getattr(step, attribute)
    return step


def _array(x) -> np.ndarray:
    """In its own type; NumPy has no bfloat16, but float32 has all of its numbers."""
    x = np.array(x)
    return x if x.dtype in (np.float16, np.float32, np.float64) else x.astype(np.float32)
