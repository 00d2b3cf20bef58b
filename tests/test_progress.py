"""What a run says: a line that is written anew on a terminal, plain lines elsewhere, nothing where nobody listens."""

import errno
import io
import os
import re

import pytest

from numgpt.training import Trainer, prepare
from numgpt.training.progress import Progress, _clock
from runs import PROSE, differing
from stages import later


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def run(tmp_path, request, monkeypatch):
    if "how_it_fares" not in request.node.name:  # what matrix products take is measured once: it costs more than all the rest
        monkeypatch.setattr("numgpt.training.progress.matmul_speed", lambda *_: 1e9)
    (tmp_path / "text").write_text(PROSE * 8)
    return lambda report, name="run", **options: prepare(tmp_path / "text", folder=tmp_path / name, report=report, preset="nano", batch=4,
                                                         eval_every=4, **{"steps": 12, **options})


def test_a_run_says_what_it_is_how_it_fares_and_where_it_lies(run, tmp_path):
    out = io.StringIO()
    with run(Progress(out), shards=1) as trainer:
        trainer.run()
    head, *steps, done = [line for line in out.getvalue().split("\n") if line and "this machine has" not in line]
    assert head == f"{trainer.model.n_params:,} parameters, 2 layers of width 12; 4 sequences of 8 tokens a step, in 1 shard on 1 thread"
    assert [line.split("  ")[0] for line in steps] == [f"step {n} of 12" for n in (0, 4, 8, 12)]
    assert "left" in steps[1] and "left" not in steps[-1]
    assert done.startswith("done: 12 steps in 0:") and f"{trainer.best:.4f} at step 12;" in done and done.endswith(str(tmp_path / "run"))
    out = io.StringIO()
    with Trainer.resume(tmp_path / "run", steps=14, report=Progress(out)) as trainer:
        trainer.run()
    assert "\ngoing on from step 12\n" in out.getvalue()


def test_a_live_line_covers_the_one_before_and_fits_a_terminal_that_became_narrower(run, monkeypatch):
    out, columns = Terminal(), iter([100] * 5 + [25] * 1000)
    monkeypatch.setattr("numgpt.training.progress.shutil.get_terminal_size", lambda: os.terminal_size((next(columns), 24)))
    monkeypatch.setattr("numgpt.training.progress.LIVE_EVERY", 0.0)
    with run(Progress(out)) as trainer:
        trainer.run()
    live = [line for line, end in re.findall(r"([^\r\n]*)([\r\n])", out.getvalue()) if end == "\r" and line.strip()]
    assert max(map(len, live[:4])) > 60 and all(len(line) < 25 for line in live[-8:])
    shown = ""  # as the terminal shows it in the end: nothing of a longer line is left behind a shorter one
    for part in out.getvalue().split("\n")[-2].split("\r"):
        shown = part + shown[len(part):]
    assert shown.startswith("done: ") and "left" not in shown


def test_an_error_begins_on_a_line_of_its_own():
    out = Terminal()
    progress = Progress(out)
    progress._rewrite("step 3")
    progress.close()
    progress.close()
    assert out.getvalue() == "\rstep 3\n"
    plain = io.StringIO()
    Progress(plain).close()
    assert plain.getvalue() == ""


@pytest.mark.parametrize("fault", [BrokenPipeError(errno.EPIPE, "Broken pipe"), later(OSError(errno.ENOSPC, "No space left on device")),
                                   later(OSError(errno.EIO, "Input/output error")), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_where_nobody_listens_any_more_it_says_no_more_and_the_run_goes_on(run, tmp_path, fault, kind):
    class Gone(kind):
        n = 0

        def write(self, text):
            self.n += 1
            if self.n > 3:
                raise fault
            return super().write(text)

    out = Gone()
    with run(Progress(out)) as trainer, run(None, "silent") as silent:
        trainer.run(), silent.run()
    assert out.n == 4
    assert not differing(tmp_path / "run", tmp_path / "silent")


def test_clocks_have_hours_when_they_need_them():
    assert [_clock(seconds) for seconds in (-3, 0.4, 59.6, 61, 3600, 90061)] == ["0:00", "0:00", "1:00", "1:01", "1:00:00", "25:01:01"]


def test_a_run_whose_best_model_is_its_first_says_so(run, tmp_path):
    out = io.StringIO()
    with run(Progress(out), lr=30.0, steps=4) as trainer:
        trainer.run()
    assert f"{trainer.best:.4f} at step 0: no evaluation was better than the start; " in out.getvalue()
    with Trainer.resume(tmp_path / "run", steps=5) as again:
        assert again.best_at == 0
