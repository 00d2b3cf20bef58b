"""Layers with something missing have right gradients, and what the ablation says of them is what it measured."""

import importlib
import json
import math
from itertools import combinations
from threading import Event

import numpy as np
import pytest
from test_docstrings import near

from numgpt import GPT, GPTConfig
from numgpt.cli import main
from numgpt.gradcheck import check
from numgpt.layers import CausalAttention, PreNormBlock
from numgpt.teach.ablate import Ablation, ablate, course
from numgpt.teach.ablate.course import PARTS, WHOLE, Run, counting, lengths, look, made, on_digits, on_text, titled
from numgpt.teach.ablate.reversal import Reversal
from numgpt.teach.ablate.without import REMOVERS, NoSkipBlock, Through, UnmaskedAttention, remove
from numgpt.teach.derivation import Derivation, execute, scope
from numgpt.teach.terminal import Ink
from numgpt.text import CharTokenizer, split
from numgpt.training import Settings, TextData, Trainer
from numgpt.verify import cases
from families import each
from stages import later

module = importlib.import_module("numgpt.teach.ablate")
B, T, H, D, C, F, V = 2, 5, 3, 2, 7, 4, 11
RNG = np.random.default_rng


def drawn(layer):
    return cases.order_one(layer, RNG(0))


def x(*shape):
    return RNG(1).standard_normal(shape)


# -- the layers


def test_a_block_without_its_skips_has_right_gradients():
    block = drawn(NoSkipBlock(PreNormBlock(C, H, head_size=D, n_hidden=F)))
    check(block, x(B, T, C)).assert_ok()


def test_a_block_without_its_skips_drops_the_same_numbers_on_both_ways():
    block = drawn(NoSkipBlock(PreNormBlock(C, H, head_size=D, n_hidden=F, dropout_attn=0.2, dropout_resid=0.3)))
    check(lambda x_: block.forward(x_, rng=RNG(3))[0], x(B, T, C),
          backward=lambda dy, x_: block.backward(dy, block.forward(x_, rng=RNG(3))[1])).assert_ok()
    rng, x_ = RNG(3), x(B, T, C)
    a = block.dropout(block.attention(block.norm1(x_), rng=rng), rng=rng)
    assert np.array_equal(block(x_, rng=RNG(3)), block.dropout(block.ffn(block.norm2(a)), rng=rng))


@pytest.mark.parametrize("tile", [2, 64])
def test_attention_without_a_mask_has_right_gradients(tile):
    check(UnmaskedAttention(scale=0.4, tile=tile), *(x(B, H, T, D) * (1 + i) for i in range(3))).assert_ok()


def test_attention_without_a_mask_sees_the_future_and_at_the_last_position_what_the_masked_sees():
    q, k, v = (x(B, H, T, D) * (1 + i) for i in range(3))
    masked, unmasked = CausalAttention(scale=0.4, tile=2), UnmaskedAttention(scale=0.4, tile=2)
    last = v.copy()
    last[:, :, -1] += 1
    assert np.array_equal(masked(q, k, last)[:, :, :-1], masked(q, k, v)[:, :, :-1])
    assert (unmasked(q, k, last) != unmasked(q, k, v)).all()
    assert near(unmasked(q, k, v)[:, :, -1], masked(q, k, v)[:, :, -1])


def test_what_lets_everything_through_does_so_both_ways():
    check(Through(), x(B, T, C)).assert_ok()
    assert np.array_equal(Through()(x(B, T, C)), x(B, T, C))


@pytest.mark.parametrize("layer, inputs", [
    (Through(), {"x": x(B, T, C)}),
    (UnmaskedAttention(scale=0.4, tile=2), {name: x(B, H, T, D) * (1 + i) for i, name in enumerate("qkv")}),
    (drawn(NoSkipBlock(PreNormBlock(C, H, head_size=D, n_hidden=F))), {"x": x(B, T, C)}),
], ids=lambda item: type(item).__name__)
def test_the_derivation_in_the_docstring_is_what_the_layer_computes(layer, inputs):
    y, saved = layer.forward(*inputs.values())
    dy = RNG(2).standard_normal(y.shape)
    result = layer.backward(dy, saved)
    names, derivation = scope(layer) | inputs | {"dy": dy}, Derivation.of(layer)
    execute((*derivation.forward, *derivation.backward), names)
    assert near(names["y"], y)
    for name, d in zip(inputs, result if isinstance(result, tuple) else (result,)):
        assert near(names[f"d{name}"], d), name


@pytest.mark.parametrize("part", [later(part) if part in ("positions", "norm") else part for part in REMOVERS])
@pytest.mark.parametrize("mode", ["projection", later("every")])
def test_a_model_without_a_part_has_right_gradients_and_keeps_its_other_weights(part, mode):
    config = GPTConfig(n_vocab=V, n_ctx=T, n_layer=2, n_head=2, n_embd=4, n_hidden=3)
    whole, model = GPT(config, seed=0, dtype=np.float64), GPT(config, seed=0, dtype=np.float64)
    remove(model, part)
    own = dict(whole.named_params())
    assert all(np.array_equal(param.value, own[name].value) for name, param in model.named_params())
    absent = {"norm": "norm", "positions": "positions"}.get(part)
    assert [name for name, _ in model.named_params()] == [name for name in own if not (absent and absent in name)]
    ids = RNG(0).integers(0, V, (2, 3, T))
    assert model(*ids) != whole(*ids)
    check(drawn(model), *ids, mode=mode).assert_ok()


def test_a_part_that_no_model_has_is_refused():
    with pytest.raises(ValueError, match="one of residual, norm, positions, mask; got 'head'"):
        remove(GPT(GPTConfig.preset("nano")), "head")


# -- the training


TEXT = "the cat sat on the mat; the rat ate the oats. " * 40
TINY = dict(n_layer=2, n_embd=8, n_ctx=16)


def tiny(*parts, steps=6, **options):
    return ablate(*parts, steps=steps, text=TEXT, changes=TINY, **options)


def read_data(text):
    tokenizer = CharTokenizer.train(text)
    return TextData(*split(np.array(tokenizer.encode(text), np.uint16), 0.1), tokenizer)


def test_a_mask_that_is_missing_with_something_else_is_spoken_of_too():
    found = tiny("mask+positions", steps=1)
    assert "With the future in sight its loss ends at" in found.remarks()["mask+positions"]


@pytest.fixture(scope="module")
def all_parts():
    return tiny()


def figures(ablation):
    return {name: item for name, item in ablation.to_dict().items() if name != "seconds"}


def test_the_same_seed_gives_the_same_figures_on_one_core_and_on_two(all_parts, monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 1)
    assert figures(tiny()) == figures(all_parts)
    assert tiny(seed=1)["whole"].losses != all_parts["whole"].losses


def test_the_whole_is_what_a_trainer_makes_of_it(all_parts):
    data = read_data(TEXT)
    model = GPT(all_parts.config, seed=0)
    with Trainer(model, data, all_parts.settings) as trainer:
        losses = [trainer.step()["loss"]]
        assert all_parts["whole"].first == lengths(model)
        losses += [trainer.step()["loss"] for _ in range(5)]
        assert all_parts["whole"].losses[6] == trainer.evaluate()["val_loss"]
    assert all_parts["whole"].trained == losses


def test_the_last_gradients_are_the_mean_of_ten_steps(all_parts):
    settings, data, lasts = Settings.from_dict(all_parts.settings.to_dict() | {"steps": 12}), read_data(TEXT), []
    model = GPT(all_parts.config, seed=0)
    with Trainer(model, data, settings) as trainer:
        for _ in range(12):
            trainer.step()
            lasts.append(lengths(model))
    found = on_text(WHOLE, all_parts.config, settings, data, Event(), lambda run: None)
    assert found.first == lasts[0] and found.last == np.mean(lasts[2:], 0).tolist()


def test_digits_are_trained_with_more_rows_and_fewer_steps(all_parts, monkeypatch):
    seen, stop = [], Event()
    monkeypatch.setattr(course, "Trainer", lambda *three: seen.append(three[-1]) or Trainer(*three))
    stop.set()
    for steps in (500, 7):
        settings = Settings.from_dict(all_parts.settings.to_dict() | {"steps": steps})
        on_digits(WHOLE, all_parts.config, settings, stop)
    assert [(one.steps, one.batch, one.lr) for one in seen] == [(100, 32, settings.lr), (7, 32, settings.lr)]


def test_all_begin_with_the_same_weights_and_batches(all_parts):
    whole, no_warmup = all_parts["whole"], all_parts["warm-up"]
    assert no_warmup.losses[0] == whole.losses[0] and no_warmup.trained[0] == whole.trained[0]
    # the model without a mask has the whole's weights: with its future hidden it is the whole, summed in another order
    assert all_parts["mask"].hidden[0] == pytest.approx(whole.losses[0], rel=1e-6)
    assert len({run.losses[0] for run in all_parts.runs}) == len(PARTS)


def test_the_future_is_hidden_from_the_weights_that_were_trained_in_its_sight(all_parts):
    data, settings = read_data(TEXT), all_parts.settings
    trained, masked = made("mask", all_parts.config, 0), GPT(all_parts.config, seed=0)
    with Trainer(trained, data, settings) as trainer:
        for _ in range(6):
            trainer.step()
    masked.values[...] = trained.values
    with Trainer(masked, data, settings) as judge:
        assert all_parts["mask"].hidden[6] == pytest.approx(judge.evaluate()["val_loss"], rel=1e-6)
    assert all_parts["mask"].hidden[6] != all_parts["mask"].losses[6]


def test_without_a_warm_up_the_first_step_is_as_long_as_any():
    found = tiny("warm-up", "post-norm", "post-norm+warm-up", steps=20)
    assert found["whole"].trained[1] != found["warm-up"].trained[1]
    both = found["post-norm+warm-up"]
    assert both.title == "post-norm, no warm-up" and both.losses[0] == found["post-norm"].losses[0]
    assert both.trained[1] != found["post-norm"].trained[1]
    short = tiny("warm-up", steps=4)  # of which a tenth is no step
    assert short["whole"].trained == short["warm-up"].trained


def test_what_is_not_finite_is_said_and_not_in_json():
    found = tiny("warm-up", lr=1e38)
    assert found["warm-up"].broke.startswith("not finite after step") and "It breaks off" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


# -- the measures


def test_the_length_of_a_block_s_gradient():
    model = GPT(GPTConfig.preset("nano"), seed=0, dtype=np.float64)
    ids = RNG(0).integers(0, 29, (2, 3, 8))
    model.backward(model.forward(*ids)[1])
    of_1 = np.concatenate([param.grad.reshape(-1) for name, param in model.named_params() if name.startswith("blocks.1.")])
    assert lengths(model)[1] == pytest.approx(np.linalg.norm(of_1), rel=1e-12)


def test_a_look_at_equal_tokens_without_positions():
    """Each query then gives its attention evenly to the keys it sees, and all positions stay alike."""
    model = GPT(GPTConfig.preset("nano"), seed=0, dtype=np.float64)
    remove(model, "positions")
    seen = look(model, np.full((2, 8), 3))
    assert seen["focus"] == pytest.approx(np.mean(1 / np.arange(1, 9)), rel=1e-12)
    assert seen["alike"] == pytest.approx(1, rel=1e-12)
    model.values *= 3
    assert look(model, np.full((2, 8), 3))["size"] > 2 * seen["size"]


def test_a_look_sees_attention_where_it_stands_behind_the_norm_or_before_it():
    """Behind a norm, a stream that is ten times as large draws no more attention to one key."""
    ids, seen = RNG(0).integers(0, 29, (2, 5)), {}
    for norm in ("pre", "post"):
        model = GPT(GPTConfig.preset("nano", n_layer=1, norm=norm), seed=0, dtype=np.float64)
        for table in (model.body.embedding.table, model.body.positions.table):
            table.value *= 1e3  # so that the norm's eps of 1e-5 beside a mean square of 400 is 3e-8 of it
        seen[norm] = [look(model, ids)["focus"]]
        for table in (model.body.embedding.table, model.body.positions.table):
            table.value *= 10
        seen[norm].append(look(model, ids)["focus"])
    assert seen["pre"][1] == pytest.approx(seen["pre"][0], rel=1e-6)
    assert seen["post"][1] > 1.1 * seen["post"][0]


def test_how_alike_positions_are_is_the_mean_over_pairs_of_them():
    model, ids = GPT(GPTConfig.preset("nano", n_layer=1), seed=0, dtype=np.float64), RNG(0).integers(0, 29, (2, 5))
    x_ = model.body.blocks[0](model.body.positions(model.body.embedding(ids)))
    cosines = [a @ b / np.sqrt(a @ a * (b @ b)) for text in x_ for a, b in combinations(text, 2)]
    assert look(model, ids)["alike"] == pytest.approx(np.mean(cosines), rel=1e-12)


def test_counting_needs_no_model():
    data = read_data("ab" * 1000)
    data.prepare(Settings(steps=1), 16)
    found = counting(data, 2)
    assert found["uniform"] == math.log(2) and found["single"] == pytest.approx(math.log(2), abs=1e-3)
    assert 0 < found["pairs"] < 1e-2


def test_digits_backwards_and_what_is_held_out_stays_so():
    data = Reversal(4)
    data.prepare(Settings(steps=1, batch=3), 16)
    ids, targets = data.batch(0)
    assert (ids[:, 4] == 10).all() and np.array_equal(targets[:, 4:], ids[:, 3::-1]) and (targets[:, :4] == -100).all()
    assert np.array_equal(next(data.held_out())[0], next(data.held_out())[0])
    assert not np.array_equal(next(data.held_out())[0][:3], ids)


# -- what is said


COUNTING = {"uniform": 4.6, "single": 3.3, "pairs": 2.3}


def run(name, loss, last=(1.0, 1.0), look=None, early=None, **more):
    looks = {"focus": 0.1, "alike": 0.5, "size": 1.0} | (look or {})
    return Run(name, *titled(name), 0, {0: 4.6, 30: early or loss, 300: loss}, first=[1.0, 1.0], last=list(last),
               looks=[looks, looks], **more)


def said(one, whole=None):
    config = GPTConfig(n_vocab=9, n_ctx=8, n_layer=2, n_head=1, n_embd=4)
    return Ablation(whole or run(WHOLE, 2.0, reversed=1.0), [one], config, Settings(steps=300), COUNTING).remarks()[one.name]


@pytest.mark.parametrize("one, says, is_silent_of", [
    (run("residual", 3.3, (1e-6, 1.0), {"alike": 0.99}),
     ("how often each character comes", "cosine of 0.99", "1e-06 times as long as the last"), ("above",)),
    *((run("scale", loss), ("has learned how often", "nothing beyond"), ("not even",)) for loss in (3.26, 3.34)),
    *((run("scale", loss), ("not even learned how often", "3.30; the whole: 2.00"), ("beyond",)) for loss in (3.6, 4.5)),
    (run("scale", 3.2), ("1.20 above the whole's",), ("learned",)),
    (run("residual", 2.3), ("0.30 above the whole's",), ("cosine", "fades", "characters")),
    (run("residual", 2.3, (0.0, 1.0)), ("the first block's gradient is 0: it fades",), ("times",)),
    (run("residual", 2.3, (0.0, 0.0)), ("0.30 above",), ("gradient",)),
    (run("residual", 2.3, (0.05, 1.0)), ("is 0.05 times as long as the last block's (the whole: 1 times)",), ()),
    (run("residual", 2.3, (0.2, 1.0)), ("0.30 above",), ("gradient",)),
    (run("scale", 2.01), ("shows no difference",), ("above", "attention")),
    (run("scale", 2.2, look={"focus": 0.7}), ("70% of its attention", "0.20 above"), ("no difference",)),
    (run("norm", 2.2), ("0.20 above",), ("nothing brings it back",)),
    (run("norm", 9.0, look={"size": 50.0}), ("worse than a blind guess", "of size 50"), ()),
    (run("post-norm", 1.8), ("0.20 below the whole's",), ("rescales",)),
    (run("warm-up", 2.3), ("after 30 steps its loss is 2.30, the whole's 2.00",), ("no difference",)),
    (run("warm-up", 2.3), ("and by the end that is not mended.",), ("; by the end",)),
    (run("warm-up", 2.0, early=2.4), ("after 30 steps its loss is 2.40", "; by the end that is mended."), ("not mended",)),
    (run("warm-up", 2.0), ("no difference",), ("Adam",)),
    (run("positions", 2.01, reversed=0.0), ("the mask alone", "0% of the rows right, the whole 100%"), ()),
    (run("positions", 2.5, reversed=1.0), ("0.50 above",), ("the mask alone", "rows right")),
    (run("mask", 0.05, hidden={300: 6.0}),
     ("looks the answer up", "its loss is 6.00, worse than a blind guess"), ("below the whole's", "not yet")),
    (run("mask", 0.5, hidden={300: 4.0}), ("looks the answer up", "4.00, worse than counting characters."),
     ("guess", "begun")),
    (run("mask", 1.8, hidden={300: 2.03}), ("begun to look the answer up", "its loss is 2.03."), ("not yet", "worse")),
    (run("mask", 2.0, hidden={300: 2.1}), ("begun to look the answer up", "its loss is 2.10."), ("not yet", "worse")),
    (run("mask", 1.8, hidden={300: 1.82}), ("not yet found out", "hidden at 1.82 (the whole: 2.00)"), ("looks", "below")),
    (run("mask", 2.5, hidden={300: 2.52}), ("not yet found out", "hidden at 2.52"), ("looks", "worse")),
    (run("norm", 2.0, broke="not finite after step 7"), ("breaks off: not finite after step 7",), ("loss ends",)),
])
def test_a_remark_says_what_the_figures_show_and_no_more(one, says, is_silent_of):
    sentence = said(one)
    assert all(words in sentence for words in says), sentence
    assert not [words for words in is_silent_of if words in sentence], sentence


def test_what_neither_has_learned_is_not_said_of_the_one():
    assert said(run("scale", 3.6), run(WHOLE, 3.6)).startswith("Its loss ends at 3.60, the whole's at 3.60")
    assert "0.12 below" in said(run("scale", 3.58), run(WHOLE, 3.7))


def test_every_run_gets_a_remark():
    def gets(name, loss):
        assert f"loss ends at {loss:.2f}" in said(run(name, loss, hidden={300: 6.0} if "mask" in name.split("+") else {}))

    names = [*PARTS, *map("+".join, combinations(PARTS, 2))]
    each([(name, loss) for name in names for loss in (0.05, 2.0, 2.5, 3.3, 9.0)], gets)


@pytest.mark.parametrize("mine, whole", [(0.05, 0.1), (5.0, 100.0)])
def test_a_gradient_that_the_whole_s_fades_with_or_that_has_grown_is_not_called_faded(mine, whole):
    assert "fades" not in said(run("scale", 2.0, (mine, 1.0)), run(WHOLE, 2.0, (whole, 1.0)))


def test_if_the_whole_breaks_off_nothing_is_compared():
    whole = run(WHOLE, 2.0, broke="not finite after step 3")
    assert said(run("norm", 2.0), whole).startswith("The whole model itself breaks off")


def test_the_tables_fit_into_80_columns_and_html_shows_them_too(all_parts):
    text = all_parts.text(80, Ink(False))
    assert max(map(len, text.splitlines())) <= 80
    for run in all_parts.runs:
        assert f"\n{run.title}: " in text and f"<td>{run.title}</td>" in all_parts._repr_html_()
    loss = f"{all_parts['scale'].losses[6]:.2f}"
    assert any(line.startswith("no 1/sqrt(D) ") and line.endswith(loss) for line in text.splitlines())


@pytest.mark.parametrize("steps, says", [
    (1, "in the last step "), (9, "in the last 9 steps"), (300, "in the last 10 steps")])
def test_the_head_says_how_many_steps_were_the_last(steps, says):
    config = GPTConfig(n_vocab=9, n_ctx=8, n_layer=2, n_head=1, n_embd=4)
    found = Ablation(run(WHOLE, 2.0), [run("scale", 2.0)], config, Settings(steps=steps), COUNTING)
    assert f"\n{says} " in found.text(80, Ink(False))


# -- the command


def test_the_command_prints_the_table_and_writes_all_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "MODEL", {**module.MODEL, **TINY})
    monkeypatch.setattr(module.corpus, "default", lambda: TEXT)
    assert main(["ablate", "residual", "--steps", "3", "--json", str(tmp_path / "found.json")]) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [run["name"] for run in found["runs"]] == ["residual"] and len(found["whole"]["trained"]) == 3
    assert f"{found['runs'][0]['losses']['3']:.2f}" in out
    assert "no residual: the paths past the branches are gone" in " ".join(out.split())


@pytest.mark.parametrize("argv, says", [
    (["residul"], "there is no part 'residul'; 'residual'?"),
    (["post-norm+norm"], "without the norm, there is no such thing"),
    (["--steps", "0"], "steps must be at least 1"), (["--lr", "-1"], "above 0; got -1.0")])
def test_wrong_calls_are_refused_with_a_sentence(argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ablate", *argv])
    assert stop.value.code == 2 and says in " ".join(capsys.readouterr().err.split())


def test_the_list_names_every_part(capsys):
    assert main(["ablate", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PARTS)
