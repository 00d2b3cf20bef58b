"""Threads: what the BLAS is told, in what order a pool answers, and what happens where something fails."""

import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from numgpt import threads
from numgpt.threads import Pool, one_blas_thread
from families import each

needs_blas = pytest.mark.skipif(threads.blas_threads() is None, reason="the threads of this BLAS cannot be set")
needs_openblas = pytest.mark.skipif(threads.blas_kernels() is None or platform.machine() not in ("x86_64", "AMD64"),
                                    reason="this is no OpenBLAS for processors of these names")


@pytest.fixture
def blas():
    """How to ask the library itself; it has three threads, however many cores there are, and gets its own back after."""
    ask, tell = threads.blas_threads()
    before = ask()
    tell(3)
    yield ask
    tell(before)


@pytest.fixture
def told(monkeypatch):
    """A library of seven threads, and the list of all that it was told."""
    calls = []
    monkeypatch.setattr(threads, "blas_threads", lambda: (lambda: ([7] + calls)[-1], calls.append))
    return calls


# -- the BLAS


@needs_blas
def test_the_blas_itself_says_that_it_is_held_to_one_thread_and_has_its_own_after(blas):
    assert blas() == 3
    with one_blas_thread() as held:
        assert held is True and blas() == 1
        np.ones((300, 300)) @ np.ones((300, 300))
        assert blas() == 1
    assert blas() == 3


@needs_blas
def test_it_is_held_until_the_outermost_of_nested_ones_ends(blas):
    with one_blas_thread():
        for _ in range(2):
            with one_blas_thread() as held, one_blas_thread():
                assert held is True and blas() == 1
            assert blas() == 1
    assert blas() == 3


@needs_blas
def test_it_is_given_back_after_an_error_from_within(blas):
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        with pytest.raises(KeyError), one_blas_thread():
            raise KeyError
        assert blas() == 1
        raise ZeroDivisionError
    assert blas() == 3


@needs_blas
def test_of_threads_that_overlap_the_last_to_leave_gives_it_back(blas):
    inside, leave, seen = threading.Barrier(3), [threading.Event(), threading.Event()], []

    def hold(i):
        with one_blas_thread():
            inside.wait(10)
            leave[i].wait(10)
            seen.append(blas())

    both = [threading.Thread(target=hold, args=(i,)) for i in range(2)]
    for thread in both:
        thread.start()
    inside.wait(10)
    assert blas() == 1
    for i in (1, 0):
        assert blas() == 1
        leave[i].set()
        both[i].join(10)
    assert seen == [1, 1] and blas() == 3


def test_many_threads_that_come_and_go_tell_one_and_the_former_number_in_turn(told):
    start = threading.Barrier(5)

    def come_and_go():
        start.wait(10)
        for _ in range(200):
            with one_blas_thread():
                assert threads.blas_threads()[0]() == 1

    errors = []
    everyone = [threading.Thread(target=lambda: _noting(errors, come_and_go)) for _ in range(5)]
    for thread in everyone:
        thread.start()
    for thread in everyone:
        thread.join(30)
    assert not errors
    assert told == [1, 7] * (len(told) // 2) and told


def _noting(errors, function):
    try:
        function()
    except BaseException as error:
        errors.append(error)


def test_nested_ones_tell_the_library_once(told):
    with one_blas_thread(), one_blas_thread():
        assert told == [1]
    assert told == [1, 7]


def test_where_it_cannot_be_set_that_is_said_and_the_work_goes_on(monkeypatch):
    monkeypatch.setattr(threads, "blas_threads", lambda: None)
    with one_blas_thread() as held, one_blas_thread() as within:
        assert held is False and within is False
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError


def test_libraries_that_cannot_be_opened_or_have_no_such_functions_are_none(monkeypatch, tmp_path):
    (tmp_path / "libblas.so").write_bytes(b"no library")
    found = [tmp_path / "libblas.so", tmp_path / "absent.so", *([None] if sys.platform.startswith("linux") else [])]
    monkeypatch.setattr(threads, "_libraries", lambda: [path for path in found if path is not None])
    assert threads.blas_threads.__wrapped__() is None  # past the memory of what was found before
    assert threads.blas_kernels() is None


@needs_openblas
def test_openblas_says_which_kernels_it_takes_and_takes_those_that_it_is_told():
    for name in ("Haswell", "Nehalem"):
        said = subprocess.run([sys.executable, "-c", "from numgpt.threads import blas_kernels; print(blas_kernels())"],
                              env={**os.environ, "OPENBLAS_CORETYPE": name}, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == name


def test_cores_are_those_of_this_process():
    assert type(threads.cores()) is int and threads.cores() >= 1


# -- the pool


def test_a_pool_answers_in_the_order_of_the_arguments():
    def answers(n, length):
        pool = Pool(n)
        assert pool.map(lambda a, b: (a, b), range(length), "abcdefghijklm") == list(zip(range(length), "abcdefghijklm"))
        pool.close()

    each([(n, length) for n in (1, 2, 3, 5) for length in (0, 1, 2, 3, 7, 13)], answers)


def test_as_many_calls_as_threads_run_side_by_side_the_caller_s_among_them():
    pool, together = Pool(3), threading.Barrier(3)

    def meet(_):
        together.wait(10)  # one after the other, the first would wait in vain
        return threading.get_ident()

    idents = pool.map(meet, range(3))
    assert len(set(idents)) == 3 and idents[0] == threading.get_ident()
    pool.close()


def test_a_pool_of_one_runs_in_the_caller_and_starts_no_thread():
    pool, before = Pool(1), threading.active_count()
    idents = pool.map(lambda _: (threading.get_ident(), threading.active_count()), range(5))
    assert idents == [(threading.get_ident(), before)] * 5
    pool.close()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_error_that_is_raised_is_the_first_in_the_order_of_the_arguments_for_any_number_of_threads(n):
    pool = Pool(n)

    def fail(i):
        if i in (3, 4, 5, 7):
            raise ValueError(i)

    with pytest.raises(ValueError, match="^3$"):
        pool.map(fail, range(11))
    assert pool.map(abs, [-2, 3, -5]) == [2, 3, 5]  # and the pool goes on
    pool.close()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("failing", [0, 1])
def test_all_calls_have_been_made_and_have_ended_before_an_error_is_raised(n, failing):
    pool, failed, ended = Pool(n), threading.Event(), set()

    def work(i):
        if i == failing:
            failed.set()
            raise ValueError(i)
        if i > failing:
            failed.wait(10)  # so that the error is there before the rest
        ended.add(i)

    with pytest.raises(ValueError, match=f"^{failing}$"):
        pool.map(work, range(100))
    assert ended == set(range(100)) - {failing}
    pool.close()


def test_what_is_no_exception_but_an_interrupt_ends_the_map_after_the_other_threads():
    pool, ended = Pool(2), []

    def work(i):
        if i == 0:
            raise KeyboardInterrupt
        time.sleep(0.01)  # the map that did not wait would be back by then
        ended.append(i)

    with pytest.raises(KeyboardInterrupt):
        pool.map(work, range(7))
    assert ended == [1, 3, 5]
    with pytest.raises(KeyboardInterrupt):
        pool.map(work, [1, 0, 2])  # in a thread of the pool's
    pool.close()


@pytest.mark.parametrize("n", [1, 3])
def test_numbers_that_are_not_finite_are_no_warning_in_a_pool_and_are_one_outside(n):
    pool = Pool(n)
    with np.errstate(all="raise"):
        assert np.isnan(pool.map(lambda x: np.float64(0) / x, [0.0] * 5)).all()
        with pytest.raises(FloatingPointError):
            np.float64(0) / 0.0
    pool.close()


def test_a_closed_pool_has_ended_its_threads():
    before = threading.active_count()
    pool = Pool(3)
    pool.map(abs, range(3))
    pool.close()
    assert threading.active_count() == before
    assert pool.map(abs, range(-3, 0)) == [3, 2, 1] and threading.active_count() == before  # in the caller's thread


# -- the machine


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_speed_of_matrix_products_is_a_finite_number_above_zero(dtype):
    pool = Pool(2)
    assert 0 < threads.matmul_speed(pool, dtype, n=32) < float("inf")
    pool.close()


def test_keep_memory_says_whether_it_could_and_raises_nowhere(monkeypatch):
    assert type(threads.keep_memory()) is bool
    monkeypatch.setattr(sys, "platform", "darwin")
    assert threads.keep_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it is False before any library is asked")
@pytest.mark.parametrize("answers, kept", [((1, 1, 1), True), ((1, 0, 1), False)])
def test_keep_memory_is_true_if_the_c_library_agrees_to_everything(monkeypatch, answers, kept):
    class Library:
        asked = []
        gnu_get_libc_version = None

        def mallopt(self, *what):
            self.asked.append(what)
            return answers[len(self.asked) - 1]

    monkeypatch.setattr(threads.ctypes, "CDLL", lambda _: Library())
    assert threads.keep_memory() is kept and len(Library.asked) == 3
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda _: object())  # musl
    assert threads.keep_memory() is False
