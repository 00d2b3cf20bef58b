"""The mistakes people make where a classifier is fine-tuned as GPT-1 is: of the kind "tuning"."""

from numgpt.verify.mutants.catalogue import add, other

CLASSIFIER = "tuning.classifier.Classifier"
FORWARD, BACKWARD = CLASSIFIER + ".forward", CLASSIFIER + ".backward"
_BLIND = "the gradient is right, for another function"
_TASK = "self.task.forward(x.reshape(*np.shape(ids), -1), last, rng=rng)"
_LM = "self.head.forward(x, in_rows(targets), count=n_targets)"
_ALL = _LM.replace("in_rows(targets)", "np.maximum(in_rows(targets), 0)").replace("=n_targets", "=max(n_targets, np.size(targets))")
_DX, _ADDED = "dx = dx.reshape(-1, *dx.shape[-2:])", "dx += self.head.backward(self.lm_weight * dloss, saved_head)"
_COUNT = "self.count(ids, last, classes, targets) if count is None else count"

add("classifier-off-by-one", BACKWARD, _DX, "dx = np.roll(dx, 1, -2).reshape(-1, *dx.shape[-2:])",
    "the task's gradient one place too far to the right", "classifier", "classifier-choice", breaks="dx = task.backward(dscores)")
other("classifier-off-by-one", f"the token before the last is read: {_BLIND}",
      (FORWARD, _TASK, _TASK.replace("last,", "last - (np.asarray(last) > 0),")))
other("classifier-off-by-one", f"what stands at the end of the row is read, padding or not: {_BLIND}",
      (FORWARD, _TASK, _TASK.replace("last,", "np.where(np.asarray(last) < 0, last, np.shape(ids)[-1] - 1),")))
add("classifier-padding", FORWARD, _LM, _ALL,
    f"the padding's tokens are learned too: {_BLIND}", breaks="head(x, targets)")
add("classifier-lm-weight", BACKWARD, "self.lm_weight * dloss", "dloss",
    "the auxiliary loss has its weight in the loss, and not in the gradient", "classifier", "classifier-pairs",
    breaks="head.backward(lm_weight * dloss)")
other("classifier-lm-weight", "in the gradient, and not in the loss", (FORWARD, "self.lm_weight * lm_loss", "lm_loss"))
other("classifier-lm-weight", "twice in the gradient", (BACKWARD, "self.lm_weight * dloss", "self.lm_weight ** 2 * dloss"))
add("classifier-one-loss", BACKWARD, _ADDED, _ADDED.replace("dx += ", ""),
    "the body learns from the task alone, though the head learns the language", "classifier",
    breaks="the body is under both losses, so their gradients add")
other("classifier-one-loss", "the body learns the language alone", (BACKWARD, _ADDED, _ADDED.replace("dx += ", "dx = ")))
add("classifier-count", FORWARD, _COUNT, "self.count(ids, last, classes, targets)",
    f"each piece of a batch divides by its own counts: {_BLIND}",
    breaks="A batch's two means divide by two numbers, and so does each piece of it.")
other("classifier-count", f"both means divide by the number of tokens: {_BLIND}", (FORWARD, "count=n_classes", "count=n_targets"))
