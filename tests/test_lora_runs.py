"""Fine-tuning by LoRA: what is trained and what stays, what a run leaves, and adapters alone as good as the model they make."""

import io
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from runs import differing

from numgpt import GPT, GPTConfig, huggingface, llmc, safetensors
from numgpt.cli import main
from numgpt.files import FormatError
from numgpt.layers import Recompute
from numgpt.text import CharTokenizer
from numgpt.training.folder import checkpoints
from numgpt.tuning import adapters, files
from numgpt.tuning.growth import grown
from numgpt.tuning.start import Tuner, prepare
from numgpt.verify import cases

TOKENIZER = CharTokenizer("abcdefghij ")
SIZES = dict(n_vocab=11, n_ctx=24, n_layer=2, n_head=3, n_embd=15)
FORMS = {"tied": {}, "untied": dict(tied=False, head_bias=True)}
WORDS = ("bad", "cab", "fig", "hid", "jab", "egg", "ace", "ice", "jig", "beg")
LINES = {"instruct": [{"prompt": word, "response": word[::-1]} for word in WORDS],
         "classify": [{"text": word, "label": "i" if "i" in word else "none"} for word in WORDS],
         "dpo": [{"prompt": word, "chosen": word[0], "rejected": word} for word in WORDS]}
HOW = ("--steps", 4, "--batch", 4, "--eval-every", 2, "--lr", 0.02, "--held-out", 0.3, "--seed", 5)  # loading draws by another seed


def base_of(form: str = "tied", seed: int = 0, **changes) -> GPT:
    return cases.order_one(GPT(GPTConfig(**{**SIZES, **FORMS[form], **changes})), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Bases with their tokenizer, and a file of examples for each stage."""
    folder = tmp_path_factory.mktemp("desk")
    for name in (*FORMS, "other"):
        (folder / name / "tokenizer").mkdir(parents=True)
        TOKENIZER.save(folder / name / "tokenizer" / "characters.json")
        base_of(name, 0).save(folder / name / "best.safetensors") if name in FORMS else base_of(seed=1).save(folder / name / "best.safetensors")
    for stage, lines in LINES.items():
        (folder / f"{stage}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def runs(desk):
    """A run of each stage, made as somebody would; of instruct one for each form of base."""
    made = {"instruct": "tied", "instruct-untied": "untied", "classify": "untied", "classify-tied": "tied", "dpo": "tied"}
    for name, base in made.items():
        stage = name.partition("-")[0]
        command = ["align", "--by"] if stage == "dpo" else ["finetune", "--task"]
        words = [*command, stage, desk / base, desk / f"{stage}.jsonl", "--lora", 2, "--lora-layers", "attention,ffn.up", "--lora-alpha", 3,
                 "--out", desk / f"run-{name}", *HOW, "--quiet"]
        assert main([*map(str, words)]) == 0
    return {name: (desk / base, desk / f"run-{name}") for name, base in made.items()}


def failed(capsys, *words) -> str:
    """The sentence of a command that ends in one."""
    try:
        assert main([*map(str, words)]) == 1
    except SystemExit as error:
        assert error.code == 2
    return capsys.readouterr().err


def convert(base, to, beside) -> int:
    return main(["convert", str(base), str(to), "--adapters", str(beside), "--force"])


@pytest.mark.parametrize("name", ["instruct", "instruct-untied", "classify", "dpo"])
def test_the_base_stays_as_it_was_and_the_adapters_and_the_task_move(runs, name):
    base, run = runs[name]
    model, before = files.load(checkpoints(run)[-1]), dict(GPT.load(base / "best.safetensors").named_params())
    assert list(adapters.adapters(model)) == [f"blocks.{i}.{layer}" for i in (0, 1) for layer in ("attention.qkv", "attention.out", "ffn.up")]
    assert {(layer.rank, layer.alpha) for layer in adapters.adapters(model).values()} == {(2, 3.0)}
    for key, param in model.named_params():
        if key in before:
            old = before[key].value  # of a table, what is there of the old tokens
            assert param.frozen and np.array_equal(param.value[tuple(map(slice, old.shape))], old)
        else:
            assert not param.frozen and param.value.any() and (".lora_" in key or key.startswith("task."))
    assert ("task.linear.weight" in dict(model.named_params())) == (name == "classify")


@pytest.mark.parametrize("name", ["instruct", "instruct-untied", "classify", "dpo"])
def test_base_and_adapters_alone_make_the_best_model_again_to_the_bit(runs, tmp_path, name):
    base, run = runs[name]
    assert convert(base, tmp_path / "made.safetensors", run / "adapters.safetensors") == 0
    made, best = (files.load(path) for path in (tmp_path / "made.safetensors", run))
    assert type(made) is type(best) and made.about() == best.about() and not adapters.adapters(best)
    assert made.config == best.config and np.array_equal(made.values, best.values)
    with safetensors.File(run / "adapters.safetensors") as file:
        new = {tensor: file[tensor].shape for tensor in file if tensor.startswith("new.")}
        assert json.loads(file.metadata["config"])["n_vocab"] == 11
    n = best.config.n_vocab - 11
    untied = {"new.head.weight": (15, n), "new.head.bias": (n,)} if base.name == "untied" else {}
    assert n > 0 and new == {"new.embedding.table": (n, 15), **untied}


def test_the_run_says_how_much_is_trained(desk, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("numgpt.training.progress.matmul_speed", lambda *_: 1e9)
    words = ["finetune", desk / "tied", desk / "classify.jsonl", "--task", "classify", "--lora", 2, "--out", tmp_path / "run", *HOW]
    assert main([*map(str, words)]) == 0
    model = files.load(tmp_path / "run")
    n = 2 * 2 * (15 + 45 + 15 + 15 + 15 + 60 + 60 + 15)  # of rank 2, in both layers, beside qkv, out, up and down
    assert f"parameters trained: {n + 2 * 15 + 2:,} of {model.n_params + n:,}" in capsys.readouterr().out.splitlines()


def test_what_a_run_by_lora_leaves_is_a_model_like_any_other(runs, monkeypatch, capsys):
    run = runs["instruct"][1]
    assert main(["sample", str(run), "--prompt", "bad", "--tokens", "4", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("bad")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"cab\n"), isatty=lambda: False))
    assert main(["chat", str(run), "--tokens", "4"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_classifier_of_base_and_adapters_says_what_the_run_s_says(runs, tmp_path, capsys):
    base, run = runs["classify"]
    (tmp_path / "texts").write_text("bad\nfig\ni\n")
    convert(base, tmp_path / "made.safetensors", run / "adapters.safetensors")
    capsys.readouterr()
    assert main(["classify", str(tmp_path / "made.safetensors"), str(tmp_path / "texts"), "--tokenizer", str(base / "tokenizer")]) == 0
    said = capsys.readouterr().out
    assert main(["classify", str(run), str(tmp_path / "texts")]) == 0
    assert said == capsys.readouterr().out and len(said.splitlines()) == 3
    main(["convert", str(run), str(tmp_path / "again.safetensors")])  # what it was tuned to goes with it
    assert np.array_equal(files.load(tmp_path / "again.safetensors").values, files.load(run).values)


def test_other_programs_get_the_gpt_without_its_task(runs, tmp_path):
    base, run = runs["classify-tied"]
    assert convert(base, tmp_path / "gpt2", run / "adapters.safetensors") == convert(base, tmp_path / "gpt.bin", run / "adapters.safetensors") == 0
    best = GPT.load(run / "best.safetensors")
    assert np.array_equal(huggingface.load(tmp_path / "gpt2").values, best.values)
    assert np.array_equal(llmc.load(tmp_path / "gpt.bin").values, best.values)


@pytest.mark.parametrize("stage, recompute", [("classify", True), ("dpo", False)])
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(desk, tmp_path, stage, recompute):
    def begun(folder) -> Tuner:
        return prepare(stage, desk / "tied", desk / f"{stage}.jsonl", folder=folder, lora=3, lora_layers="all", held_out=0.3, steps=4, batch=4,
                       eval_every=1, shards=2, lr=0.02, recompute=recompute)

    with begun(tmp_path / "whole") as whole:
        whole.run()
    with begun(tmp_path / "halves") as half:
        half._log({"step": 0, **half.evaluate()})
        for _ in range(2):
            half._log(half.step() | half.evaluate())
        half.save()
    with Tuner.resume(tmp_path / "halves", recompute=recompute) as second:
        second.run()
    assert differing(tmp_path / "whole", tmp_path / "halves") == []
    assert (tmp_path / "whole" / "adapters.safetensors").read_bytes() == (tmp_path / "halves" / "adapters.safetensors").read_bytes()
    if stage == "dpo":  # the reference is what the policy began as, without adapters
        reference = GPT.load(tmp_path / "halves" / "reference.safetensors")
        assert not adapters.adapters(reference) and np.array_equal(reference.body.embedding.table.value[:11], base_of().body.embedding.table.value)


def test_a_base_that_has_the_tokens_is_not_given_them_again(runs, desk, tmp_path):
    start = runs["instruct"][1]
    with prepare("dpo", start, desk / "dpo.jsonl", folder=tmp_path / "run", lora=1, held_out=0.3, steps=1, batch=4) as trainer:
        trainer.run()
    assert not any(name.startswith("new.") for name in safetensors.read(tmp_path / "run" / "adapters.safetensors"))
    assert convert(start, tmp_path / "made.safetensors", tmp_path / "run" / "adapters.safetensors") == 0
    assert np.array_equal(files.load(tmp_path / "made.safetensors").values, files.load(tmp_path / "run").values)


def test_a_base_that_was_tuned_to_something_else_leaves_its_task_behind(runs, desk, tmp_path):
    start = runs["classify"][1]
    with prepare("instruct", start, desk / "instruct.jsonl", folder=tmp_path / "run", lora=1, held_out=0.3, steps=1, batch=4) as trainer:
        trainer.run()
    assert convert(start, tmp_path / "made.safetensors", tmp_path / "run" / "adapters.safetensors") == 0
    made, best = (files.load(path) for path in (tmp_path / "made.safetensors", tmp_path / "run"))
    assert type(made) is type(best) and np.array_equal(made.values, best.values)


def test_a_policy_of_ppo_has_adapters_and_its_critic_none_and_both_come_back(runs, desk, tmp_path):
    start, how = runs["instruct"][1], ["--batch", "4", "--held-out", "0.3", "--quiet"]
    (desk / "prompts.jsonl").write_text("".join(json.dumps({"prompt": word}) + "\n" for word in WORDS))
    by = {"reward": [desk / "dpo.jsonl"], "ppo": [desk / "prompts.jsonl", "--reward", tmp_path / "reward"]}
    for way, words in by.items():
        assert main([*map(str, ["align", "--by", way, start, *words, "--lora", 2, "--steps", 1, "--out", tmp_path / way, *how])]) == 0
    assert main(["align", "--resume", str(tmp_path / "ppo"), "--steps", "2", "--quiet"]) == 0
    model = files.load(checkpoints(tmp_path / "ppo")[-1])
    assert all(name.startswith("blocks.") for name in adapters.adapters(model))
    assert convert(start, tmp_path / "made.safetensors", tmp_path / "ppo" / "adapters.safetensors") == 0
    assert np.array_equal(files.load(tmp_path / "made.safetensors").values, files.load(tmp_path / "ppo").values)


def test_a_checkpoint_with_adapters_is_begun_with_merged(runs, desk):
    checkpoint = checkpoints(runs["instruct"][1])[-1]
    with prepare("instruct", checkpoint, desk / "instruct.jsonl", tokenizer=TOKENIZER, steps=1, batch=4, held_out=0.3) as trainer:
        merged = adapters.merged(GPT.load(checkpoint))
        assert np.array_equal(trainer.model.values, merged.values) and trainer.model.grads.size == merged.n_params


def test_the_usual_rate_is_ten_times_as_high_unless_one_is_given(desk):
    rates = {}
    for lora, given in ((None, {}), (2, {}), (2, {"lr": 1e-3})):
        with prepare("classify", desk / "tied", desk / "classify.jsonl", lora=lora, **given) as trainer:
            rates[lora, *given.values()] = trainer.settings.lr
    assert rates == {(None,): 6.25e-5, (2,): 10 * 6.25e-5, (2, 1e-3): 1e-3}


@pytest.mark.parametrize("words, sentence", [
    (["--lora", 2], "LoRA is trained beside weights that have learned something: name the model to begin with"),
    (["tied", "--lora-alpha", 2], "--lora-alpha would do nothing here: LoRA has a rank, which --lora says"),
    (["tied", "--lora", 16], r"rank 16 is more than blocks.0.attention.qkv has, whose shape is \(15, 45\)"),
    (["tied", "--lora", 0], "rank must be"),
    (["tied", "--lora", 2, "--lora-layers", "attn"], "'attn' is part of no Linear's name: choose among blocks"),
    (["tied", "--lora", 2, "--lora-layers", "task.linear"], "'task.linear' is part of no Linear's name")])
def test_what_cannot_be_trained_is_said(desk, capsys, words, sentence):
    words = [desk / word if word == "tied" else word for word in words]
    said = failed(capsys, "finetune", *words, desk / "classify.jsonl", "--task", "classify", "--out", desk / "none", "--quiet")
    assert re.search(sentence, said) and not (desk / "none").exists()


def test_align_refuses_an_idle_option_before_it_makes_a_start_model(monkeypatch, capsys):
    monkeypatch.delattr("numgpt.cli.align.prepare")
    assert "--lora-layers would do nothing here" in failed(capsys, "align", "--by", "dpo", "--lora-layers", "all")


def test_a_run_that_goes_on_has_its_rank(runs, capsys):
    assert "a run that goes on has its own --lora" in failed(capsys, "finetune", "--resume", runs["classify"][1], "--lora", 2)


def test_adapters_on_another_base_or_alone_are_refused(runs, desk, tmp_path, capsys):
    beside = runs["instruct"][1] / "adapters.safetensors"
    for base, sentence in [(desk / "other", "one of this form with other weights"), (desk / "untied", "with tied True and not False"),
                           (runs["instruct"][1], "with n_vocab 11 and not 14")]:
        assert sentence in failed(capsys, "convert", base, tmp_path / "made.safetensors", "--adapters", beside)
    assert f"has adapters, and not the model that they belong to: numgpt convert MODEL OUT --adapters {beside}" in failed(
        capsys, "sample", beside, "--tokenizer", desk / "tied" / "tokenizer")
    assert not (tmp_path / "made.safetensors").exists()


@pytest.mark.parametrize("change, sentence", [
    (lambda t, m: t.pop("new.embedding.table"), r"\(3, 15\) is wanted as the shape of 'new.embedding.table', the new tokens'; there is none"),
    (lambda t, m: t.update({"new.head.bias": np.zeros(2, "f4")}), r"\(3,\) is wanted .*; it is \(2,\), in float32"),
    (lambda t, m: t.update({"new.head.bias": np.zeros(3, "i4")}), r"it is \(3,\), in int32"),
    (lambda t, m: m.update(n_vocab="11"), "a number above 11; got '11'"), (lambda t, m: m.update(n_vocab="-1"), "a number above 11"),
    (lambda t, m: m.update(n_vocab="9" * 4400), "a number above 11"),
    (lambda t, m: t.pop("blocks.0.ffn.up.lora_a"), "has no tensor 'blocks.0.ffn.up.lora_a'")])
def test_a_file_whose_new_tokens_do_not_fit_is_refused_before_anything_is_done(runs, tmp_path, change, sentence):
    base, run = runs["instruct-untied"]
    with safetensors.File(run / "adapters.safetensors") as file:
        tensors, metadata = {name: file[name].copy() for name in file}, dict(file.metadata)
    change(tensors, metadata)
    safetensors.write(tmp_path / "changed.safetensors", tensors, metadata)
    model = GPT.load(base / "best.safetensors")
    with pytest.raises(FormatError, match=sentence):
        adapters.load(model, tmp_path / "changed.safetensors")
    assert model.config.n_vocab == 11 and np.array_equal(model.values, base_of("untied").values) and model.grads.size == model.values.size


def test_a_model_in_memory_is_begun_with_as_its_checkpoint_is_and_stays_as_it_was(runs, desk):
    checkpoint = checkpoints(runs["instruct"][1])[-1]
    model = files.load(checkpoint)
    before = model.values.copy()
    begun = []
    for base in (checkpoint, model):
        with prepare("dpo", base, desk / "dpo.jsonl", tokenizer=TOKENIZER, steps=1, batch=4, held_out=0.3) as trainer:
            begun.append(trainer.model.values)
    assert np.array_equal(*begun) and not np.array_equal(begun[0], files.load(runs["instruct"][0] / "best.safetensors").values)
    assert np.array_equal(model.values, before) and len(adapters.adapters(model)) == 6
    with pytest.raises(ValueError, match="the model has adapters, as on blocks.0.attention.qkv, and a model that is given tokens has no place"):
        grown(model, 20)


def test_a_model_in_memory_is_trained_in_the_type_and_with_the_recompute_that_are_asked_for(desk):
    how = dict(tokenizer=TOKENIZER, steps=1, batch=4, held_out=0.3)
    with prepare("dpo", base_of(), desk / "dpo.jsonl", dtype=np.float64, recompute=True, **how) as trainer:
        assert trainer.model.values.dtype == np.float64 and all(isinstance(block, Recompute) for block in trainer.model.body.blocks)
        assert np.array_equal(trainer.model.body.blocks[0].layer.ffn.up.weight.value, base_of().body.blocks[0].ffn.up.weight.value)
