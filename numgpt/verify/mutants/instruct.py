"""The mistakes people make in what an instruction's loss is of, and a mean of: no gradient check can see any of them.

Each trains a model to something else, or judges it by something else, and the loss falls all the same: a test that writes
out which targets a row must have, which of its places see each other, and what a token weighs, finds them.
"""

from numgpt.verify.mutants.catalogue import add, other

PACK, SEQUENCES, WHOSE = "tuning.packing.pack", "tuning.template.Template.sequences", "tuning.instruct.Instructed"
_TARGETS = "targets[row, start + begin - 1:stop - 1] = sequence[begin:]"
_RESPONSE = 'responses = [[*self._ids(tokenizer, getattr(item, name)), special["end"]] for name in names]'
_SHOWN, _LOSS = "targets    -      - - - ... 4           2     <end>", "loss = head(body(ids, segments), targets)"
_OTHERWISE = "the gradient is right, for another lesson"

add("instruct-border", PACK, _TARGETS, "targets[row, start + begin:stop - 1] = sequence[begin + 1:]",
    f"the mask of the response begins one too late, so its first token is never learned: {_OTHERWISE}", breaks=(WHOSE, _SHOWN))
other("instruct-border", f"it begins one too early, and <assistant> is learned too: {_OTHERWISE}", (
    PACK, _TARGETS, "targets[row, start + begin - 2:stop - 1] = sequence[begin - 1:]"))
other("instruct-border", f"each token is its own target, for nobody shifted them: {_OTHERWISE}", (
    PACK, _TARGETS, "targets[row, start + begin:stop] = sequence[begin:]"))
add("instruct-prompt", PACK, _TARGETS, "targets[row, start:stop - 1] = sequence[1:]",
    f"the prompt's tokens are learned too: {_OTHERWISE}", breaks=(WHOSE, _SHOWN))
other("instruct-prompt", f"the places of the prompt's tokens in place of the response's: {_OTHERWISE}", (
    PACK, _TARGETS, "targets[row, start:start + begin - 1] = sequence[1:begin]"))
add("instruct-end", PACK, _TARGETS, "targets[row, start + begin - 1:stop - 2] = sequence[begin:-1]",
    f"<end> is not learned, so an answer does not end: {_OTHERWISE}", breaks=(WHOSE, _SHOWN))
other("instruct-end", f"<end> is not even written: {_OTHERWISE}", (
    SEQUENCES, _RESPONSE, _RESPONSE.replace(', special["end"]]', "]")))
add("instruct-together", "tuning.instruct.InstructData.taken", "rows.segments[which]", "np.zeros_like(rows.segments[which])",
    f"the examples of a row see each other, for nobody says that they are several: {_OTHERWISE}", breaks=(WHOSE, _LOSS))
other("instruct-together", f"all but the first of a row do: {_OTHERWISE}", (
    PACK, "segments[row, stop:] += 1  # all to the right of its end", "segments[row, stop:] = 1"))
# Which mean: a long answer and a short one, or a full row and a short one, weigh the same.
MEASURE, SURPRISE, BACK = "tuning.instruct.InstructData.measure", "layers.loss.surprise", "layers.loss.surprise_backward"
_EACH = ("(lambda own, run: own.sum() / run[-1] / np.maximum(np.bincount(run[own], minlength=run[-1] + 1)[run], 1))("
         "targets != IGNORE, np.cumsum(np.diff(targets != IGNORE, prepend=False) & (targets != IGNORE)))")
add("instruct-mean", MEASURE, "total += trainer.loss(ids, targets, segments) * counted.sum()",
    "total += trainer.loss(ids, targets, segments) * len(ids)", f"what is held out is a mean over rows, as if each had as many tokens: {_OTHERWISE}",
    breaks=(WHOSE, "a batch's response tokens"), more=((MEASURE, "count += counted.sum()", "count += len(ids)"),))
other("instruct-mean", f"the mean over responses, each of them its own tokens' mean: {_OTHERWISE}", (
    SURPRISE, "np.where(counts, nll[:, 0], 0)", f"np.where(counts, nll[:, 0], 0) * {_EACH}"), (
    BACK, "(counts / total)", f"(counts / total) * {_EACH}[:, None]"))
