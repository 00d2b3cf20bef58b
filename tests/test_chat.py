"""numgpt chat: what is said to a model, what it says, and what is said of what does not go."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from numgpt import GPT, GPTConfig
from numgpt.cli import main
from numgpt.text import BPETokenizer, CharTokenizer
from numgpt.tuning.classifier import Classifier
from numgpt.tuning.instruct import Instructed
from numgpt.tuning.reward import RewardModel
from numgpt.tuning.talk import Talk, answer, answering
from numgpt.tuning.template import Template
from numgpt.verify import cases

CHARACTERS, N_CTX = "abcdefgh /", 30
TOKENIZER = CharTokenizer(CHARACTERS)
TEMPLATE = Template("instruct", len(CHARACTERS))
USER, ASSISTANT, END = TEMPLATE.special.values()


def gpt_of(n_vocab=TEMPLATE.n_vocab, seed=1):
    return cases.order_one(GPT(GPTConfig(n_vocab=n_vocab, n_ctx=N_CTX, n_layer=1, n_head=2, n_embd=10, tied=False)), np.random.default_rng(seed))


def talk_of(**options):
    return Talk(Instructed(gpt_of(), TEMPLATE), TEMPLATE, TOKENIZER, **{"temperature": 1.0, "seed": 3, "n_tokens": 8, **options})


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    Instructed(gpt_of(), TEMPLATE).save(folder / "model.safetensors")
    TOKENIZER.save(folder / "characters.json")
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command with bytes on standard input; gives its status, output and errors."""
    def run(*argv, given=b""):
        monkeypatch.setattr("sys.stdin", given if given is None else SimpleNamespace(buffer=io.BytesIO(given), isatty=lambda: False))
        try:
            status = main(["chat", *map(str, argv)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()
    return run


@pytest.fixture
def typed(monkeypatch, capsys):
    """The same on a terminal; what is typed may be an exception."""
    def run(*argv, lines):
        lines = iter(lines)

        def line(mark):
            assert mark == "> "
            one = next(lines, EOFError)
            if isinstance(one, type):
                raise one
            return one
        monkeypatch.setattr("builtins.input", line)
        monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        monkeypatch.setenv("NO_COLOR", "1")
        status = main(["chat", *map(str, argv)])
        assert next(lines, None) is None
        out, err = capsys.readouterr()
        assert not err
        return status, out.split("\n")[1:]  # the first says which commands there are
    return run


# -- talk


def test_what_was_said_stands_before_a_prompt_turn_by_turn(monkeypatch):
    talk, seen = talk_of(), []
    monkeypatch.setattr("numgpt.tuning.talk.answering", lambda model, template, tokenizer, ids, n, **_: seen.append(ids) or iter([2, 3, None]))
    assert "".join(talk.ask("ab")) == "cd" and "".join(talk.ask("e")) == "cd"
    first = [USER, 0, 1, ASSISTANT]
    assert seen == [first, [*first, 2, 3, END, USER, 4, ASSISTANT]] and talk.turns == [("ab", "cd"), ("e", "cd")] and talk.cut is None
    talk.reset()
    assert "".join(talk.ask("ab")) and seen[2] == first
    talk.single = True
    assert "".join(talk.ask("ab")) and seen[3] == first


def test_the_oldest_turns_are_forgotten_when_the_context_is_full_and_the_answer_keeps_its_room(monkeypatch):
    talk, seen, forgotten = talk_of(n_tokens=10), [], []
    monkeypatch.setattr("numgpt.tuning.talk.answering", lambda model, template, tokenizer, ids, n, **_: seen.append((ids, n)) or iter([2, None]))
    for prompt in ("aaaa", "bbbb", "cccc", "d" * 28):
        assert "".join(talk.ask(prompt)) == "c"
        forgotten.append(talk.forgotten)
    # A turn has 8 tokens, a prompt 6, and 10 - 1 are left free of 30: the first turn goes with the third prompt.
    assert forgotten == [0, 0, 1, 2] and [(len(ids), n) for ids, n in seen] == [(6, 10), (14, 10), (14, 10), (30, 1)]
    assert seen[2][0][:5] == [USER, 1, 1, 1, 1]


def test_the_pieces_of_an_answer_are_drawn_as_the_model_has_them_and_no_special_token_is_among_them():
    """Beside a loop over the model's own logits, with all that may not be said taken out."""
    talk = talk_of(n_tokens=25)
    rng, ids, said = np.random.default_rng(3), [USER, 0, ASSISTANT], []
    pieces = list(talk.ask("a"))
    while len(said) < 25:
        scores = talk.model.logits(np.array([ids + said]))[0, -1].astype(np.float64)
        scores[[USER, ASSISTANT]] = -np.inf
        p = np.exp(scores - scores.max())
        sums = p.cumsum()
        token = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        if token == END:
            break
        said.append(token)
    assert "".join(pieces) == TOKENIZER.decode(said) and len(pieces) == len(said) > 1
    assert talk.cut == (None if len(said) < 25 else "tokens")


def test_neither_the_tokenizer_s_special_tokens_nor_ids_without_text_are_said():
    tokenizer = BPETokenizer.train("ab ab", 260, special=("<|x|>",))
    template = Template("instruct", tokenizer.n_vocab + 5)  # five ids of the base model mean nothing
    begun = [template.special["user"], template.special["assistant"]]
    for wrong in (*tokenizer.special.values(), *range(tokenizer.n_vocab, template.special["end"])):
        gpt = gpt_of(template.n_vocab)
        gpt.head.weight.value[:, wrong] *= 1000 * np.sign(gpt.logits(np.array([begun]))[0, -1, wrong])
        assert gpt.logits(np.array([begun]))[0, -1].argmax() == wrong
        assert wrong not in answering(gpt, template, tokenizer, begun, 2, rng=np.random.default_rng(0))


def test_who_stops_an_answer_is_remembered_as_far_as_it_came():
    talk = talk_of(n_tokens=25)
    made = talk.ask("a")
    pieces = [next(made), next(made)]
    made.close()
    assert talk.turns == [("a", "".join(pieces))]


@pytest.mark.parametrize("prompt, sentence", [
    ("ax", "the vocabulary lacks 'x' at 1"), (" ", "a prompt is empty"), ("a" * 29, "a prompt of 29 tokens does not fit: it may have 28")])
def test_a_prompt_that_does_not_go_is_told_before_anything_is_said_and_is_not_remembered(prompt, sentence):
    talk = talk_of()
    with pytest.raises(ValueError, match=sentence):
        talk.ask(prompt)
    assert talk.turns == []


# -- line by line


def test_each_line_is_a_prompt_and_each_answer_a_line(desk, call):
    model = Instructed(gpt_of(), TEMPLATE)
    prompts = ["ab", "c", "fed"]
    alone = [answer(model, TEMPLATE, TOKENIZER, TEMPLATE.conversation([], prompt, TOKENIZER, N_CTX)[0], 4) for prompt in prompts]
    status, out, err = call(desk / "model.safetensors", "--single", "--temperature", 0, "--tokens", 4, given="\n".join(prompts).encode() + b"\r\n")
    assert status == 0 and out.split("\n") == [*(" ".join(said.splitlines()) for said in alone), ""]
    talk = talk_of(temperature=0.0, n_tokens=4)
    together = ["".join(talk.ask(prompt)) for prompt in prompts]
    assert together != alone
    assert call(desk / "model.safetensors", "--temperature", 0, "--tokens", 4, given=b"ab\nc\nfed")[1].split("\n") == [*together, ""]


def test_what_is_wrong_with_a_prompt_is_told_with_its_line_and_the_conversation_goes_on(desk, call):
    given = b"ab\naxx\n\n\xff\n" + b"a" * 40 + b"\nab\n"
    status, out, err = call(desk / "model.safetensors", "--single", "--temperature", 0, given=given)
    lines = out.split("\n")
    assert status == 1 and len(lines) == 7 and lines[0] == lines[5] and lines[1:5] == [""] * 4 and lines[0]
    told = [line for line in err.split("\n") if "cut off" not in line]
    assert told == ["numgpt: line 2: the vocabulary lacks 'x' at 1", "numgpt: line 3: a prompt is empty", "numgpt: line 4: byte 1, 0xff, is not UTF-8",
                    "numgpt: line 5: a prompt of 40 tokens does not fit: it may have 28", ""]


def test_what_is_a_command_on_a_terminal_is_a_prompt_in_a_file(desk, call):
    status, out, _ = call(desk / "model.safetensors", "--json", "--temperature", 0, given=b"/bed\n/reset\n/quit\nab\n")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == ["/bed", "/reset", "/quit", "ab"] and status == 1
    assert ["error" in line for line in lines] == [False, True, True, False]  # this vocabulary cannot write them


def test_as_json_an_answer_says_whether_it_came_to_its_end(desk, call):
    status, out, _ = call(desk / "model.safetensors", "--json", "--seed", 1, "--tokens", 1, given=b"ab\nx\n")
    first, second = map(json.loads, out.splitlines())
    assert status == 1 and first["prompt"] == "ab" and first["cut"] in ("tokens", None) and len(first["answer"]) <= 1
    assert second == {"prompt": "x", "error": "the vocabulary lacks 'x' at 0"}


def test_a_seed_draws_the_same_answers(desk, call):
    answers = [call(desk / "model.safetensors", "--seed", seed, given=b"ab\ncd\n")[1] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


# -- on a terminal


def test_on_a_terminal_a_conversation_may_be_reset_and_ended(desk, typed):
    words = desk / "model.safetensors", "--temperature", 0, "--tokens", 2
    talk = talk_of(temperature=0.0, n_tokens=2)
    said = ["".join(talk.ask(prompt)) for prompt in ("ab", "c")]
    talk.reset()
    said += ["".join(talk.ask("c"))]
    status, out = typed(*words, lines=["ab", "", "c", "/reset", "c", "/rest", "abx", "/quit"])
    out = [line for line in out if not line.startswith("(cut off")]
    assert status == 0
    assert out == [*said[:2], "(forgotten)", said[2], "there is no /rest, but /reset and /quit", "the vocabulary lacks 'x' at 2", ""]
    assert typed(*words, lines=[EOFError]) == (0, ["", ""])
    assert typed(*words, lines=["ab", KeyboardInterrupt])[0] == 130


def test_ctrl_c_stops_an_answer_and_not_the_conversation(desk, typed, monkeypatch):
    calls = []

    def answering(model, template, tokenizer, ids, n, **_):
        calls.append(ids)
        yield 0
        if len(calls) == 1:
            raise KeyboardInterrupt
        yield None

    monkeypatch.setattr("numgpt.tuning.talk.answering", answering)
    assert typed(desk / "model.safetensors", lines=["b", "c"]) == (0, ["a (stopped)", "a", "", ""])
    assert calls[1] == [USER, 1, ASSISTANT, 0, END, USER, 2, ASSISTANT]


def test_a_full_context_is_told(desk, typed):
    _, out = typed(desk / "model.safetensors", "--temperature", 0, "--tokens", 20, lines=["a" * 12, "b" * 12, "c" * 28])
    assert any(line.startswith("(the context is full: the oldest ") for line in out)
    assert "(cut off where the context is full)" in out


# -- what does not go


def test_a_model_that_was_not_taught_to_answer_is_told_how_it_is(tmp_path, call):
    TOKENIZER.save(tmp_path / "characters.json")
    gpt_of(10).save(tmp_path / "plain.safetensors")
    status, _, err = call(tmp_path / "plain.safetensors")
    assert status == 1 and "was not taught to answer: teach it with numgpt finetune" in err and '"response"' in err
    Classifier(gpt_of(12), Template("classify", 10), (0, 1), rng=np.random.default_rng(0)).save(tmp_path / "judge.safetensors")
    assert "judge.safetensors was tuned to classify, and does not answer: teach a model with numgpt finetune" in call(tmp_path / "judge.safetensors")[2]
    RewardModel(gpt_of(), Template("preference", len(CHARACTERS)), rng=np.random.default_rng(0)).save(tmp_path / "reward.safetensors")
    assert "reward.safetensors was tuned to reward, and does not answer" in call(tmp_path / "reward.safetensors")[2]
    assert "there is no model" in call(tmp_path / "no.safetensors")[2]


def test_a_model_tuned_to_preferences_answers_too(tmp_path, call):
    TOKENIZER.save(tmp_path / "characters.json")
    Instructed(gpt_of(), Template("preference", len(CHARACTERS))).save(tmp_path / "dpo.safetensors")
    status, out, _ = call(tmp_path / "dpo.safetensors", "--temperature", 0, given=b"ab\n")
    assert status == 0 and len(out) > 1


def test_a_tokenizer_that_has_more_tokens_than_the_model_was_taught_with_is_refused(desk, call, tmp_path):
    CharTokenizer(CHARACTERS + "i").save(tmp_path / "more.json")  # whose last would be <user>
    status, _, err = call(desk / "model.safetensors", "--tokenizer", tmp_path / "more.json")
    assert status == 1 and "the tokenizer has 11 tokens, and <user>, <assistant> and <end> stand after 10 others" in err


@pytest.mark.parametrize("words, sentence", [
    (["--tokens", 0], "--tokens is at least 1; got 0"), (["--seed", -1], "--seed is a whole number from 0 on; got -1"),
    (["--top-k", 0], "top_k must be at least 1; got 0"), (["--temperature", -1], "temperature must be 0")])
def test_options_that_cannot_be_are_refused(desk, call, words, sentence):
    status, _, err = call(desk / "model.safetensors", *words)
    assert status == 2 and sentence in err


def test_closed_standard_input_is_told(desk, call):
    assert call(desk / "model.safetensors", given=None)[::2] == (1, "numgpt: standard input is closed, and there is nobody to speak with\n")
