"""The mistakes that torch_port.py can be given. They are listed apart from it, to be read without importing torch."""

OF_THE_GRADIENT = """
    ce-count ce-no-division ce-sign ce-ignored-leak ce-shift ce-no-onehot head-transposed
    ln-no-gain ln-gain-in-dgain ln-dbias-axis ln-eps ln-no-mean ln-no-xhat ln-sum ln-ddof
    w-last-row b-mean ffn-pre-activation gelu-erf gelu-no-3 gelu-no-x gelu-sech
    linear-input residual-dropped residual-doubled residual-bypass proj-transposed
    dropout-v dropout-no-scale dropout-no-mask dropout-new-mask softmax-diagonal softmax-no-sum softmax-axis
    scale-missing scale-by-width scale-k-only dk-transposed qk-swapped heads-merged-wrong qkv-order
    emb-duplicates emb-assign tie-head-only tie-emb-only tie-doubled pos-mean mask-after-softmax mask-off-by-one""".split()
OF_THE_STEP = """
    accum-overwrite accum-mean-of-means clip-per-tensor clip-no-square-root adam-l2 adam-decay-lr-squared
    adam-t-plus-one adam-no-correction adam-eps-inside-root adam-decay-vectors""".split()
MISTAKES = OF_THE_GRADIENT + OF_THE_STEP

# Other forms in which a mistake is met. 2 of ce-count, ce-no-division and scale-by-width, and 3 of ln-ddof, are made in
# forward too. Of a residual's, 1 is at the ffn's sum, 2 at attention's, 3 at both.
FORMS = """
    ce-count:2 ce-no-division:2 ce-ignored-leak:2 ce-shift:2 ln-dbias-axis:2 ln-eps:2 ln-eps:3 ln-sum:2 ln-sum:3 ln-ddof:2
    ln-ddof:3 w-last-row:2 w-last-row:3 b-mean:2 linear-input:2 linear-input:3 residual-dropped:2 residual-dropped:3
    residual-doubled:2 residual-doubled:3 residual-bypass:2 residual-bypass:3 dropout-v:2 dropout-no-scale:2
    dropout-no-scale:3 dropout-no-mask:2 softmax-axis:2 softmax-axis:3 scale-by-width:2 scale-k-only:2 dk-transposed:2
    qk-swapped:2 heads-merged-wrong:2 qkv-order:2 qkv-order:3 mask-after-softmax:2 clip-per-tensor:2 adam-l2:2""".split()

# Wrong gradients that no catalogue has: whoever names mistakes must not take them for one it knows.
STRANGE = """
    strange-norm-101 strange-gelu-at-09 strange-down-flipped strange-q-11 strange-temperature strange-head-without-dv
    strange-last-query strange-half-dgain strange-half-batch strange-dlogits-clipped strange-noise
    strange-residual-099""".split()


class Wrong:
    """Which form of a mistake is planted: 0 is none of it."""

    def __init__(self, mistake=None):
        self.slug, _, form = (mistake or "").partition(":")
        self.form = int(form or 1)
        if mistake is not None and self.slug not in MISTAKES + STRANGE or self.form != 1 and mistake not in FORMS:
            raise ValueError(f"there is no mistake {mistake!r}: MISTAKES, FORMS and STRANGE list them")

    def __call__(self, slug):
        assert slug in MISTAKES + STRANGE, slug
        return self.form if slug == self.slug else 0
