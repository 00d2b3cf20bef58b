"""The gradient check on other people's code: what it finds, what it accepts, what it says."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt.gradcheck import Report, check
from numgpt.layers import Layer, Param

rng = np.random.default_rng(0)
X = rng.standard_normal((3, 5))
W = rng.standard_normal((5, 4))


# -- layers as people write them


class Dense:
    """State on the layer, gradients beside the parameters."""

    def __init__(self, dtype=np.float64):
        self.W, self.b = W.astype(dtype), rng.standard_normal(4).astype(dtype)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW, self.db = self.x.T @ dy, dy.sum(0)
        return dy @ self.W.T


class Suffixed(Dense):
    def backward(self, dy):
        self.W_grad, self.grad_b = self.x.T @ dy, dy.sum(0)
        return dy @ self.W.T


class Collected(Dense):
    """params and grads as dicts."""

    def __init__(self):
        self.params = {"W": W.copy(), "b": rng.standard_normal(4)}
        self.grads = {}

    def forward(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dy):
        self.grads = {"W": self.x.T @ dy, "b": dy.sum(0)}
        return dy @ self.params["W"].T


class Listed(Dense):
    """params and grads as parallel lists, written in place."""

    def __init__(self):
        super().__init__()
        self.params = [self.W, self.b]
        self.grads = [np.zeros_like(self.W), np.zeros_like(self.b)]

    def backward(self, dy):
        self.grads[0][...], self.grads[1][...] = self.x.T @ dy, dy.sum(0)
        return dy @ self.params[0].T


class Boxed(Dense):
    """Parameters are objects with data and grad, which accumulates."""

    def __init__(self):
        self.weight = SimpleNamespace(data=W.copy(), grad=np.zeros_like(W))

    def forward(self, x):
        self.x = x
        return x @ self.weight.data

    def backward(self, dy):
        self.weight.grad += self.x.T @ dy
        return dy @ self.weight.data.T


class Stack:
    """A layer made of layers."""

    def __init__(self):
        self.layers = [Dense(), Boxed()]
        self.layers[1].weight.data = rng.standard_normal((4, 2))
        self.layers[1].weight.grad = np.zeros((4, 2))

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy


class Contract:
    """forward returns (y, saved)."""

    def __init__(self):
        self.W = SimpleNamespace(value=W.copy(), grad=np.zeros_like(W))

    def forward(self, x):
        return x @ self.W.value, x

    def backward(self, dy, saved):
        self.W.grad += saved.T @ dy
        return dy @ self.W.value.T


@pytest.mark.parametrize("layer, params", [
    (Dense(), {"W", "b"}), (Suffixed(), {"W", "b"}), (Collected(), {"params.W", "params.b"}), (Listed(), {"W", "b"}),
    (Boxed(), {"weight"}), (Stack(), {"layers.0.W", "layers.0.b", "layers.1.weight"}), (Contract(), {"W"}),
], ids=lambda item: type(item).__name__ if not isinstance(item, set) else None)
@pytest.mark.parametrize("method", ["auto", "richardson"])
def test_parameters_are_found_and_checked(layer, params, method):
    report = check(layer, X, method=method)
    assert report.ok, report
    assert {f.name for f in report.gradients} == {"x"} | params


@pytest.mark.parametrize("layer", [Dense(), Suffixed(), Collected(), Listed(), Boxed(), Stack(), Contract()],
                         ids=lambda layer: type(layer).__name__)
def test_a_layer_is_left_as_it_was(layer):
    before = repr(vars(layer))
    check(layer, X)
    assert repr(vars(layer)) == before


def test_a_forgotten_parameter_gradient_is_caught():
    class Forgetful(Dense):
        def __init__(self):
            super().__init__()
            self.dW, self.db = np.zeros_like(self.W), np.zeros_like(self.b)

        def backward(self, dy):
            self.dW = self.x.T @ dy
            return dy @ self.W.T

    report = check(Forgetful(), X)
    assert report.verdict == "wrong" and [f.name for f in report.findings if f.verdict == "wrong"] == ["b"]
    assert "zero: nothing arrives here" in str(report)


def test_a_parameter_without_a_gradient_is_not_a_pass():
    class Nameless(Dense):
        def backward(self, dy):
            self.dW, self.delta = self.x.T @ dy, dy.sum(0)
            return dy @ self.W.T

    report = check(Nameless(), X)
    assert report.verdict == "inconclusive" and "b: it moves the output, but no gradient was found for it: say params={'b'" in str(report)
    assert check(Nameless(), X, params=["W"]) and check(Nameless(), X, params={"W": "dW", "b": "delta"})


def test_a_parameter_that_is_a_plain_number_is_not_a_pass():
    class Leaky:
        def __init__(self):
            self.alpha, self.dalpha = 0.25, 0.0

        def forward(self, x):
            self.x = x
            return np.where(x > 0, x, self.alpha * x)

        def backward(self, dy):
            self.dalpha = -3.0
            return dy * np.where(self.x > 0, 1, self.alpha)

    report = check(Leaky(), X)
    assert report.verdict == "inconclusive" and "alpha: a plain number with a gradient beside it: make it an array" in str(report)


def test_what_is_too_small_beside_the_rest_is_mentioned():
    report = check(np.exp, np.linspace(-50, 50, 101), backward=lambda dy, x: dy * np.where(x > 0, np.exp(x), 0))
    assert "are too small beside the largest to be told from 0" in str(report)


def test_an_array_that_does_not_matter_does_not_matter():
    layer = Dense()
    layer.running_mean = np.ones(3)
    assert check(layer, X)


def test_a_cached_input_with_a_cached_gradient_is_not_a_parameter():
    class Caching(Dense):
        def backward(self, dy):
            self.dx = super().backward(dy)
            return self.dx

    layer = Caching()
    layer.forward(X)
    layer.backward(np.ones((3, 4)))
    assert {f.name for f in check(layer, X).gradients} == {"x", "W", "b"}


def test_params_says_where_they_are():
    class Odd(Dense):
        def backward(self, dy):
            self.deltas = {"of": {"W": self.x.T @ dy}}
            return dy @ self.W.T

    assert {f.name for f in check(Odd(), X, params={"W": "deltas.of.W"}).gradients} == {"x", "W"}
    assert {f.name for f in check(Dense(), X, params=["b"]).gradients} == {"x", "b"}
    with pytest.raises(ValueError, match=r"no gradient found for W: looked for dW.*say params=\{'W'"):
        check(Odd(), X, params=["W"])
    with pytest.raises(ValueError, match="there is no 'nowhere' on the way of 'nowhere.W' in Odd"):
        check(Odd(), X, params={"W": "nowhere.W"})


class Shared(Dense):
    """A parameter that belongs to the class."""

    W = W

    def __init__(self):
        self.b = np.zeros(4)


class Nested(Dense):
    """params and grads as dicts of dicts."""

    def __init__(self):
        self.params, self.grads = {"l1": {"W": W.copy()}}, {"l1": {"W": np.zeros_like(W)}}

    def forward(self, x):
        self.x = x
        return x @ self.params["l1"]["W"]

    def backward(self, dy):
        self.grads["l1"]["W"][...] = self.factor * self.x.T @ dy
        return dy @ self.params["l1"]["W"].T

    factor = 1


class Closed:
    """Its forward is a closure over the object, which a copy would not reach."""

    def __init__(self, factor=1):
        self.W, self.dW, self.factor = W.copy(), np.zeros_like(W), factor
        self.f = lambda x: np.tanh(x @ self.W)

    def forward(self, x):
        self.x = x
        return self.f(x)

    def backward(self, dy):
        dz = dy * (1 - self.f(self.x) ** 2)
        self.dW = self.factor * self.x.T @ dz
        return dz @ self.W.T


class Locked(Dense):
    """It cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_parameters_of_the_class_in_nested_dicts_and_behind_closures():
    assert {f.name for f in check(Shared(), X).gradients} == {"x", "W", "b"}
    assert {f.name for f in check(Nested(), X).gradients} == {"x", "params.l1.W"}
    wrong = Nested()
    wrong.factor = 3
    assert check(wrong, X).verdict == "wrong"
    assert check(Closed(), X) and check(Closed(0), X).verdict == check(Closed(7), X).verdict == "wrong"


@pytest.mark.parametrize("layer", [Locked(), Closed()], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("method", ["auto", "richardson"])
def test_a_layer_that_cannot_be_copied_gets_its_arrays_back(layer, method):
    before, content = layer.W, layer.W.copy()
    assert check(layer, X, method=method)
    assert layer.W is before and np.array_equal(layer.W, content)


# -- functions


def affine(x, w, *, factor=1.0):
    return factor * np.tanh(x @ w)


def affine_backward(dy, x, w, factor=1.0):
    dz = factor * dy * (1 - np.tanh(x @ w) ** 2)
    return dz @ w.T, x.T @ dz


@pytest.mark.parametrize("method", ["complex", "richardson", "central"])
@pytest.mark.parametrize("mode", ["every", "jacobian", "projection", "sampled"])
def test_a_pair_of_functions_in_every_method_and_mode(method, mode):
    assert check(affine, X, W, backward=affine_backward, factor=0.3, method=method, mode=mode)
    report = check(affine, X, W, backward=lambda dy, x, w, factor: [1.001 * g for g in affine_backward(dy, x, w, factor)],
                   factor=0.3, method=method, mode=mode)
    assert report.verdict == "wrong" and {f.verdict for f in report.gradients} == {"wrong"}


def test_several_inputs_and_outputs_as_tuples_and_dicts():
    def f(pair, table):
        a, b = pair
        return {"sum": a + b * table["w"], "sine": np.sin(a).sum()}

    def g(dy, pair, table):
        a, b = pair
        return ((dy["sum"] + dy["sine"] * np.cos(a), dy["sum"] * table["w"]), {"w": (dy["sum"] * b).sum(0)})

    a, b, w = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.standard_normal(4)
    report = check(f, (a, b), {"w": w}, backward=g)
    assert report and [f.name for f in report.gradients] == ["pair[0]", "pair[1]", "table['w']"]
    assert not check(f, (a, b), {"w": w}, backward=lambda *args: g(*args)[::-1][::-1][:1] + ({"w": 0 * w},))


def test_gradients_by_name_and_none_for_integers():
    ids = np.array([0, 2, 2])

    def f(table, ids):
        return table[ids]

    def g(dy, table, ids):
        d = np.zeros_like(table)
        np.add.at(d, ids, dy)
        return d

    for backward in (g, lambda *a: (g(*a), None), lambda *a: {"table": g(*a)}, lambda *a: (g(*a),)):
        report = check(f, X, ids, backward=backward)
        assert report and report.skipped == ["ids (int64) is not differentiated"]
    with pytest.raises(ValueError, match=r"backward returned 3 gradients for 2 inputs \(table, ids\)"):
        check(f, X, ids, backward=lambda *a: (g(*a), None, None))


def test_a_scalar_output_and_a_scalar_input():
    assert check(lambda x: (x ** 2).sum(), X, backward=lambda dy, x: 2 * dy * x)
    assert check(lambda x, s: s * x, X, 0.5, backward=lambda dy, x, s: (s * dy, (dy * x).sum()))
    assert check(lambda x: float((x ** 2).sum()), X, backward=lambda dy, x: 2 * dy * x)


def test_a_generator_is_copied_for_every_call():
    def f(x, rng):
        return x * (rng.random(x.shape) < 0.5)

    report = check(f, X, backward=lambda dy, x, rng: dy * (rng.random(x.shape) < 0.5), rng=np.random.default_rng(3))
    assert report, report


# -- methods


def test_what_drops_the_imaginary_part_is_noticed_and_richardson_takes_over():
    report = check(lambda x: x.std(0), X, backward=lambda dy, x: dy * (x - x.mean(0)) / (len(x) * x.std(0)))
    assert report and {f.method for f in report.gradients} == {"richardson"}
    assert "drops the imaginary part" in report.notes[0]
    with pytest.raises(ValueError, match="the complex step cannot be used on x"):
        check(lambda x: abs(x), X, backward=lambda dy, x: dy * np.sign(x), method="complex")


def test_what_cannot_take_complex_numbers_is_noticed():
    report = check(lambda x: np.hypot(x, 1), X, backward=lambda dy, x: dy * x / np.hypot(x, 1))
    assert report and "complex numbers do not pass (TypeError" in report.notes[0]


@pytest.mark.parametrize("method", ["auto", "richardson"])
def test_at_a_kink_any_value_between_the_slopes_is_right_and_said_so(method):
    x = np.array([[-1.0, 0.0, 2.0, 0.5, -0.3]])

    def relu(x):
        return np.where(x > 0, x, 0 * x)

    for at_zero in (0.0, 0.5, 1.0):
        report = check(relu, x, backward=lambda dy, x: dy * np.where(x == 0, at_zero, x > 0), method=method)
        assert report, report
        assert "1 lie at a kink" in str(report) or at_zero == (1.0 if method == "auto" else 0.5)
    for at_zero in (-0.1, 1.1):
        report = check(relu, x, backward=lambda dy, x: dy * np.where(x == 0, at_zero, x > 0), method=method)
        assert not report and "at a kink, outside of its slopes" in str(report), report


@settings(max_examples=10)  # of hundreds of evaluations each
@given(st.integers(0, 10_000))
def test_kinks_nearby_raise_no_alarm(seed):
    rng = np.random.default_rng(seed)
    x, w, v = rng.standard_normal((4, 6)), rng.standard_normal((6, 9)), rng.standard_normal((9, 3))

    def f(x, w):
        return np.maximum(x @ w, 0) @ v

    def g(dy, x, w):
        dh = dy @ v.T * (x @ w > 0)
        return dh @ w.T, x.T @ dh

    report = check(f, x, w, backward=g, method="richardson", seed=seed)
    assert report, report
    assert max(f.tolerance for f in report.gradients) < 1e-5


def test_noise_is_inconclusive_not_ok():
    def noisy(x):
        # the same noise at the same place, another at any other: it passes every test of repeatability
        return np.sin(x) + 1e-3 * np.sin(1e9 * x)

    report = check(noisy, X, backward=lambda dy, x: np.zeros_like(x), method="richardson")
    assert not report
    state = np.random.default_rng(0)
    report = check(lambda x: x + state.standard_normal(x.shape), X, backward=lambda dy, x: 0 * dy)
    assert report.verdict == "inconclusive" and "two calls on the same inputs differ" in str(report)
    with np.errstate(invalid="ignore"):
        report = check(lambda x: np.log(x), X, backward=lambda dy, x: dy / x)
    assert report.verdict == "inconclusive" and "nan or inf among the outputs" in str(report)


def test_a_large_constant_does_not_hide_a_wrong_gradient():
    report = check(lambda x: 1e9 + np.sin(x), X, backward=lambda dy, x: 0 * dy, method="richardson")
    assert not report


@pytest.mark.parametrize("factor", [1e-12, 1e-5, 1.0, 1e8])
@pytest.mark.parametrize("method", ["auto", "richardson"])
def test_the_verdict_does_not_depend_on_the_scale_of_the_output(factor, method):
    def f(x):
        return factor * np.tanh(x)

    for error, verdict in ((0, "ok"), (1e-7, "wrong")):
        report = check(f, X, backward=lambda dy, x: (1 + error) * dy * factor / np.cosh(x) ** 2, method=method)
        assert report.verdict == verdict, report


# -- ways in which a wrong gradient once passed, or a right one was doubted


def both(f, x, right, wrong, **options):
    """The right gradient is ok, the wrong one wrong."""
    assert check(f, x, backward=right, **options), check(f, x, backward=right, **options)
    report = check(f, x, backward=wrong, **options)
    assert report.verdict == "wrong", report


@pytest.mark.parametrize("arrange", [np.asfortranarray, lambda w: w.T.copy().T, lambda w: np.broadcast_to(w[:1], w.shape)])
def test_any_layout_of_an_input(arrange):
    both(lambda w: np.tanh(X @ w), arrange(W), lambda dy, w: X.T @ (dy * (1 - np.tanh(X @ w) ** 2)), lambda dy, w: 0 * w)


def test_a_small_part_that_drops_the_imaginary_part():
    w = rng.standard_normal((5, 7))

    def loss(w):
        return ((X @ w) ** 2).mean() + 1e-5 * abs(w).sum()

    def gradient(dy, w):
        return dy * 2 * X.T @ (X @ w) / (3 * 7)

    both(loss, w, lambda dy, w: gradient(dy, w) + dy * 1e-5 * np.sign(w), gradient)


@pytest.mark.parametrize("outlier", [1e3, 1e4, 1e8])
@pytest.mark.parametrize("method", ["auto", "richardson"])
def test_an_outlier_does_not_set_the_step(outlier, method):
    def f(x):
        return np.exp(-x * x)

    both(f, np.array([0.5, -0.3, 0.8, -1.2, outlier]), lambda dy, x: -2 * x * dy * f(x), lambda dy, x: 0 * dy, method=method)


@pytest.mark.parametrize("method", ["auto", "richardson"])
def test_a_function_narrower_than_the_step(method):
    def f(x):
        return np.exp(-(1e3 * x) ** 2)

    both(f, np.array([3e-4, 1.0, -1.0, 0.5]), lambda dy, x: -2e6 * x * dy * f(x), lambda dy, x: 0 * dy, method=method)


def test_an_explosive_function():
    both(lambda w: np.ones(3) * w ** 60, np.array(1.0), lambda dy, w: dy.sum() * 60 * w ** 59, lambda dy, w: 7 * dy.sum() * 60 * w ** 59)


def test_an_input_whose_spread_is_a_few_ulp():
    x = 1e6 + np.array([0.0, 1e-9, 2e-9, 5e-9])
    report = check(lambda x: np.sin(x - 1e6), x, backward=lambda dy, x: 2 * dy * np.cos(x - 1e6))
    assert not report
    assert check(lambda x: np.sin(x - 1e6), x, backward=lambda dy, x: dy * np.cos(x - 1e6))


def test_many_kinks_in_one_array():
    x = np.maximum(rng.standard_normal(400), 0)
    assert check(lambda x: np.maximum(x, 0), x, backward=lambda dy, x: dy * (x > 0))


def test_kinks_by_the_dozen_in_a_random_direction():
    x = rng.standard_normal(40)
    x[[3, 9, 17]] = 0
    both(lambda x: np.maximum(x, 0), x, lambda dy, x: dy * (x > 0), lambda dy, x: dy * (x > 0) * 1.001, mode="projection")


def test_equal_maxima_must_share_the_gradient():
    x = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])
    both(lambda x: x.max(-1), x, lambda dy, x: dy[:, None] * (np.arange(3) == x.argmax(-1)[:, None]),
         lambda dy, x: dy[:, None] * (x == x.max(-1, keepdims=True)))


def test_several_kinks_in_one_element_are_not_called_wrong():
    u, v = np.array([[1.0, -2, 3, 1]]), np.array([1.0, -1, 1, -1])
    report = check(lambda x: np.maximum(x @ u, 0) @ v, np.array([[0.0], [1.0]]),
                   backward=lambda dy, x: (np.outer(dy, v) * (x @ u > 0)) @ u.T)
    assert report.verdict != "wrong", report


def test_a_badly_conditioned_layernorm_is_not_taken_for_a_kink():
    def f(x):
        c = x - x.mean(-1, keepdims=True)
        return c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-12)

    def g(dy, x):
        c = x - x.mean(-1, keepdims=True)
        q = 1 / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-12)
        h = c * q
        return q * (dy - dy.mean(-1, keepdims=True) - h * (dy * h).mean(-1, keepdims=True))

    report = check(f, np.array([[1.0, 2, 4], [1 + 1e-7, 1, 1 - 3e-7]]), backward=g)
    assert report.verdict != "wrong", report


def test_nan_in_a_float32_gradient():
    def g(dy, x):
        return dy / np.cosh(x) ** 2 if x.dtype == np.float64 else dy * np.float32(np.nan)

    report = check(np.tanh, X.astype(np.float32), backward=g)
    assert report.verdict == "wrong"


def test_a_function_that_insists_on_a_range():
    def entropy(p):
        if (p >= 1).any() or (p <= 0).any():
            raise ValueError("not a probability")
        return -np.log(1 - p)

    both(entropy, rng.uniform(0.01, 0.99, (3, 4)), lambda dy, p: dy / (1 - p), lambda dy, p: dy / (1 + p))


def test_single_precision_inside():
    w = W.astype(np.float32)

    def f(x):
        return np.tanh(x.astype(np.float32) @ w).astype(np.float64)

    def g(dy, x):
        return ((dy * (1 - np.tanh(x @ W) ** 2)) @ W.T).astype(np.float32).astype(np.float64)

    report = check(f, X, backward=g)
    assert report.verdict != "wrong" and "computes in float32" in str(report), report


def test_lists_single_element_trees_and_float_losses():
    assert check(lambda x: np.sin(x), [1.0, 2.0], backward=lambda dy, x: dy * np.cos(x))
    for x in ([X], (X,)):
        assert check(lambda xs: xs[0] ** 2, x, backward=lambda dy, xs: type(xs)([2 * dy * xs[0]]))
    assert check(lambda x: float((x ** 2).sum()), X.astype(np.float32), backward=lambda dy, x: (2 * dy * x).astype(x.dtype))


# -- rules of the contract


class Kept(Contract):
    def backward(self, dy, saved):
        self.W.grad = saved.T @ dy
        return dy @ self.W.value.T


class Written(Contract):
    def backward(self, dy, saved):
        self.W.grad += saved.T @ dy
        saved *= 0
        return dy @ self.W.value.T


class Scribbled(Contract):
    def backward(self, dy, saved):
        self.W.grad += saved.T @ dy
        dx = dy @ self.W.value.T
        dy *= 2
        return dx


class Buffered(Contract):
    def forward(self, x):
        if not hasattr(self, "buffer"):
            self.buffer = np.empty_like(x)
        self.buffer[...] = x
        return x @ self.W.value, self.buffer


class Careless(Contract):
    def forward(self, x):
        y = x @ self.W.value, x.copy()
        x += 1
        return y


class Bent(Contract):
    def backward(self, dy, saved):
        self.W.grad += saved.T @ dy
        return dy * abs(dy).mean() @ self.W.value.T


class Offset(Contract):
    def backward(self, dy, saved):
        self.W.grad += saved.T @ dy
        return dy @ self.W.value.T + 1e-9


@pytest.mark.parametrize("layer, says", [
    (Kept(), "gradients of parameters are added, not set"), (Written(), "backward wrote to saved"), (Scribbled(), "backward wrote to dy"),
    (Buffered(), "a forward on other inputs changed the gradients of the first"),
    (Careless(), "forward wrote to x"), (Bent(), "backward is not linear in dy: see x"),
    (Offset(), "dy = 0 gives a gradient in x"),
], ids=lambda item: type(item).__name__ if not isinstance(item, str) else None)
def test_broken_rules(layer, says):
    x = X.copy()
    report = check(layer, x)
    assert report.verdict == "wrong" and says in str(report)


def test_an_input_is_never_changed_by_the_check():
    x = X.copy()
    check(affine, x, W, backward=affine_backward)
    assert np.array_equal(x, X)


def test_dtype_is_kept():
    root = np.sqrt(2)  # a NumPy scalar: float64
    report = check(lambda x: x * root, X.astype(np.float32), backward=lambda dy, x: dy * root)
    assert not report and "the output is float64 where the inputs are float32" in str(report) and "math.sqrt" in str(report)


def test_float32_is_checked_through_its_float64_twin_and_then_compared():
    report = check(Dense(np.float32), X.astype(np.float32))
    assert report and {f.method for f in report.gradients} == {"complex", "float32"}
    assert max(f.error for f in report.gradients if f.method == "float32") < 1e-6

    class Rounding(Dense):
        def backward(self, dy):
            self.dW, self.db = self.x.T @ dy, dy.sum(0)
            if dy.dtype == np.float32:  # precision lost on the way, in float32 alone
                self.dW = self.dW.astype(np.float16).astype(np.float32)
            return dy @ self.W.T

    report = check(Rounding(np.float32), X.astype(np.float32))
    assert report.verdict == "wrong" and "right in float64, not in float32" in str(report)


# -- wrong shapes, wrong calls


def test_a_gradient_of_another_shape_or_none_or_nan_is_wrong():
    assert "has shape (4, 5), the array (5, 4)" in str(check(affine, X, W, backward=lambda *a: (affine_backward(*a)[0], affine_backward(*a)[1].T)))
    assert "gave no gradient for w" in str(check(affine, X, W, backward=lambda *a: (affine_backward(*a)[0], None)))
    assert "nan or inf in the gradient" in str(check(affine, X, W, backward=lambda *a: (affine_backward(*a)[0], W * np.nan)))


@pytest.mark.parametrize("call, error, says", [
    (lambda: check(np.sin, X), TypeError, "ufunc has no backward: pass a layer that has one, or a function and backward=g"),
    (lambda: check(np.sin, np.arange(3), backward=lambda dy, x: dy), ValueError, "nothing to differentiate"),
    (lambda: check(np.sin, 1j * X, backward=lambda dy, x: dy), TypeError, "x is complex; this check is for real functions"),
    (lambda: check(Dense(), X, method="exact"), ValueError, "method 'exact' is not known: choose one of auto, complex"),
    (lambda: check(Dense(), X, mode="all"), ValueError, "mode 'all' is not known"),
    (lambda: check(affine, X, W, backward=affine_backward, params=["w"]), ValueError, "make each parameter an input"),
    (lambda: check(Dense(), X, dy=np.ones((3, 4))), ValueError, "dy is 1 everywhere: softmax and LayerNorm send a constant to zero"),
    (lambda: check(np.sum, X, backward=lambda dy, x: dy * x, dy=np.array(0.0)), ValueError, "dy is 0 everywhere: any gradient would pass"),
    (lambda: check(affine, X, W, backward=lambda dy, saved: dy), TypeError, r"called as g\(dy, x, w\).*too many positional"),
    (lambda: check(affine, X, W, backward=lambda dy, x, w: {"dx": x, "dw": w}), ValueError, "the keys dx, dw; wanted are .* x, w"),
    (lambda: check(Dense(), X, dy=np.ones((4, 3))), ValueError, r"dy must have the shapes of the outputs, \[\(3, 4\)\]; got \[\(4, 3\)\]"),
])
def test_wrong_calls_are_answered_with_a_sentence(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_given_dy_is_used():
    dy = np.zeros((3, 4))
    dy[1] = [1, -2, 3, -4]
    seen = []

    class Watching(Dense):
        def backward(self, dy):
            seen.append(dy.copy())
            return super().backward(dy)

    assert check(Watching(), X, dy=dy)
    assert any(np.array_equal(d, dy) for d in seen)


def test_a_budget_is_kept_and_what_was_left_out_is_said():
    eye = np.eye(100)

    def slow(x):
        return np.tanh(np.tanh(x @ eye) @ eye)

    def slow_backward(dy, x):
        t = np.tanh(x)
        return dy * (1 - np.tanh(t) ** 2) * (1 - t * t)

    x = rng.standard_normal((60, 100))
    report = check(slow, x, backward=slow_backward, budget=0.1)
    assert report and report.seconds < 5
    assert {f.mode for f in report.gradients} == {"projection", "sampled"}
    report = check(slow, x, backward=slow_backward, mode="every", budget=0.1)
    assert "of 6000 derivatives in the time allowed" in str(report)


# -- the report


def wrong(transform, x=X, w=W, **options) -> Report:
    """affine with the gradient of w transformed."""
    def backward(dy, x, w):
        dx, dw = affine_backward(dy, x, w)
        return dx, transform(dw, dy, x)
    report = check(affine, x, w, backward=backward, **options)
    assert report.verdict == "wrong"
    return report


@pytest.mark.parametrize("transform, looks_like", [
    (lambda dw, dy, x: -dw, "the sign is turned"),
    (lambda dw, dy, x: 2 * dw, "scaled by 2"),
    (lambda dw, dy, x: dw / 3, "scaled by 1/3"),
    (lambda dw, dy, x: dw * np.sqrt(7), "scaled by 2.64575 = sqrt(D)"),
    (lambda dw, dy, x: dw / np.sqrt(7), "scaled by 0.377964 = 1/sqrt(D)"),
    (lambda dw, dy, x: -dw * np.sqrt(7), "scaled by -2.64575 = -sqrt(D)"),
    (lambda dw, dy, x: 0 * dw, "zero: nothing arrives here"),
    (lambda dw, dy, x: dw * (np.arange(5) != 2)[:, None], "only row 2 of 5, which get nothing"),
    (lambda dw, dy, x: dw * np.where(np.arange(4) < 2, 1, 3), "only columns 2, 3 of 4: block 2 of 2 (a head, or one of q, k, v)"),
    (lambda dw, dy, x: np.roll(dw, 2, -1), "2 blocks of 2 columns in the order (1, 0)"),
    (lambda dw, dy, x: dw * np.repeat([2.0, -5.0], 2), "per head: 2 blocks of 2 columns, scaled by 2, -5"),
    (lambda dw, dy, x: dw + dy.sum(), "a constant is missing or added"),
    (lambda dw, dy, x: dw - dw.mean(-1, keepdims=True), "in each row a constant is missing or added: the mean's part"),
    (lambda dw, dy, x: dw - np.outer(x[0], dy[1]), "a rank-one part is missing or added"),
])
def test_a_report_names_what_the_error_looks_like(transform, looks_like):
    report = wrong(transform, hints={"sqrt(D)": np.sqrt(7)})
    assert looks_like in report.worst.looks_like, report


def test_a_square_gradient_transposed_is_seen():
    w = rng.standard_normal((5, 5))
    assert wrong(lambda dw, dy, x: dw.T, w=w).worst.looks_like == ["transposed"]


def test_a_report_in_its_forms():
    report = wrong(lambda dw, dy, x: 2 * dw)
    assert str(report).splitlines()[1].startswith("  w[") and "(ratio 2); 20 of 20 entries differ; looks like: scaled by 2" in str(report)
    assert "right: x" in str(report) and repr(report) == str(report)
    assert "wrong" in report.table() and len(report.table().splitlines()) == 4
    data = json.loads(report.to_json())
    assert data["verdict"] == "wrong" and data["findings"][-1]["looks_like"] == ["scaled by 2"]
    assert report.worst.name == "w" and not report.ok and not bool(report)
    with pytest.raises(AssertionError, match="looks like: scaled by 2"):
        report.assert_ok()
    check(affine, X, W, backward=affine_backward).assert_ok()


def test_the_same_seed_gives_the_same_report():
    once, again = (json.loads(check(affine, X, W, backward=affine_backward, mode="projection", seed=3).to_json()) for _ in range(2))
    once.pop("seconds"), again.pop("seconds")
    assert once == again


def test_a_gradient_that_loses_digits_on_its_way_may_not_call_that_noise():
    def single(dy, x):
        return (dy.astype(np.float32) / np.cosh(x).astype(np.float32) ** 2).astype(np.float64)

    assert check(np.tanh, X, backward=lambda dy, x: dy / np.cosh(x) ** 2)
    assert check(np.tanh, X, backward=single).verdict == "wrong"


def test_a_missing_gradient_in_float32_is_said_once():
    report = check(affine, X.astype(np.float32), W.astype(np.float32), backward=lambda *a: (affine_backward(*a)[0], None))
    assert [f.method for f in report.gradients if f.name == "w"] == ["complex"] and report.verdict == "wrong"


class Twice(Layer):
    """y = (x W) W: the gradient of W has two parts, which add up one after the other."""

    def __init__(self, n, rng):
        self.weight = Param(rng.standard_normal((n, n)))

    def forward(self, x):
        h = x @ self.weight.value
        return h @ self.weight.value, (x, h)

    def backward(self, dy, saved):
        x, h = saved
        self.weight.grad += h.T @ dy
        dh = dy @ self.weight.value.T
        self.weight.grad += x.T @ dh
        return dh @ self.weight.value.T


@pytest.mark.parametrize("seed", range(10))
def test_a_parameter_used_twice_is_no_failure_though_its_parts_round_otherwise_in_the_sum(seed):
    rng = np.random.default_rng(seed)
    assert check(Twice(5, rng), rng.standard_normal((7, 5)))
