"""The mistakes people make in LoRA: of the kind "tuning"."""

from numgpt.verify.mutants.catalogue import add, other

LORA = "layers.lora.LoRA"
INIT, FORWARD, BACK = f"{LORA}.__init__", f"{LORA}.forward", f"{LORA}.backward"

# -- the scale, which is in all three gradients: in each of them once

_A, _H, _DX = "self.lora_a.add_product(flat(x).T, dh)", "h = self.scale * (flat(x)", "dx += (dh @ self.lora_a.value.T)"

add("lora-scale-a", BACK, _A, _A.replace("dh", "dh / self.scale"), "the scale is missing in the gradient of lora_a",
    "lora", "lora-no-bias", breaks=(LORA, "dlora_a = x.T @ dh"))
other("lora-scale-a", "twice in it", (BACK, _A, _A.replace("dh", "self.scale * dh")))
other("lora-scale-a", "missing in what flows back through lora_b, and so in dx, too", (BACK, "dh = self.scale * (", "dh = ("))
add("lora-scale-b", BACK, _H, "h = (flat(x)", "the scale is missing in the gradient of lora_b", "lora", "lora-no-bias",
    breaks=(LORA, "dlora_b = scale * (x @ lora_a).T @ dy"))
other("lora-scale-b", "twice in it", (BACK, _H, "h = self.scale ** 2 * (flat(x)"))
add("lora-scale-dx", BACK, _DX, _DX.replace("dh", "dh / self.scale"),
    "the scale is missing in what x gets through the small matrices", "lora", "lora-no-bias", breaks=(LORA, "dx = dy @ weight.T + dh @ lora_a.T"))
other("lora-scale-dx", "twice in it", (BACK, _DX, _DX.replace("dh", "self.scale * dh")))
add("lora-scale-forward", FORWARD, "(self.scale * h)", "h", "the scale is in backward alone", "lora",
    breaks=(LORA, "y = x @ weight + bias + scale * (x @ lora_a) @ lora_b"))
add("lora-alpha-alone", INIT, "self.alpha / self.rank", "self.alpha",
    "alpha is not divided by the rank, so each rank wants another: the gradient is right, for another function",
    breaks=(LORA, "scale = alpha / rank"))
other("lora-alpha-alone", "divided by the root of the rank: the gradient is right, for another function",
      (INIT, "self.alpha / self.rank", "self.alpha / math.sqrt(self.rank)"))

# -- the ways

add("lora-no-dx", BACK, "dx += ", "",
    "x gets the gradient that comes through the weight, and none through the small matrices", "lora",
    breaks=(LORA, "dx = dy @ weight.T + dh @ lora_a.T"))
other("lora-no-dx", "what comes through the small matrices alone", (BACK, "dx += ", "dx[...] = "))
add("lora-bottleneck", BACK, "h = self.scale * (flat(x) @ self.lora_a.value)", "h = dh",
    "lora_b's gradient is made of the bottleneck's gradient, in place of the bottleneck", "lora",
    breaks=(LORA, "dlora_b = scale * (x @ lora_a).T @ dy"))

# -- the start, and what is frozen: no gradient check can see them, test_lora.py does

_DRAWN, _ZERO = "normal(rng, (n_in, rank), 1 / math.sqrt(n_in), dtype)", "constant(0.0, (rank, n_out), dtype)"

add("lora-both-zero", INIT, _DRAWN, "constant(0.0, (n_in, rank), dtype)",
    "both matrices start at 0, and stay there: the gradient is right, for a layer that cannot learn",
    breaks=(LORA, "lora_a may not be 0 as well"))
other("lora-both-zero", "neither starts at 0, so the model is another before its first step: the gradient is right, for that",
      (INIT, _ZERO, "normal(rng, (rank, n_out), 1 / math.sqrt(n_in), dtype)"))
add("lora-base-trained", INIT, "self.freeze()", "pass",
    "the weight is trained as well: the gradient is right, for a base that moves", breaks=(LORA, "nothing is added to their gradients"))
