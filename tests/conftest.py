"""What all tests share: how many examples a property draws, and what a run of thousands of tests need not pay for.

Property tests draw the same examples every time in CI; at a desk others each time, and fewer.
"""

import gc
import itertools
import os
from pathlib import Path

# OpenBLAS's threads wait for their next product awake, for a tenth of a second: in each process that a test starts, as long as
# many of them work. Here and there they go to sleep at once; how many there are stays as it is. To be said before NumPy is loaded.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("desk", deadline=None, max_examples=15)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# The objects of the collected tests stay to the end: looking through them again and again for garbage took a tenth of the
# suite's time. What tests leave behind is collected still, if less often.
gc.disable()


def pytest_collection_finish(session):
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Empty folders, as many as are asked for."""
    base = tmp_path_factory.getbasetemp()
    return (base / str(i) for i in itertools.count())


@pytest.fixture
def tmp_path(folders) -> Path:
    """A folder of the test's own, as pytest's is, which looks through those of all tests before for each new one."""
    path = next(folders)
    path.mkdir()
    return path


@pytest.fixture(scope="session", autouse=True)
def processes_keep_bytecode():
    """Where PYTHONDONTWRITEBYTECODE is set, each of the hundred processes that tests start would compile numgpt anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_power_is_cut():
    """Files are not waited for until the disk has them, which no test can see; who asks for it at all is watched in
    test_files.py. Processes that tests start do wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a file that is not open is an error still
        yield


@pytest.fixture(scope="session", autouse=True)
def the_machine_is_measured_once():
    """How fast matrix products are here is measured by each run that shows its progress, for a quarter of a second of all cores:
    within this process by the first alone."""
    from numgpt.training import progress  # not before OpenBLAS was told what it is told above

    measured, real = {}, progress.matmul_speed

    def matmul_speed(pool, dtype):
        if dtype not in measured:
            measured[dtype] = real(pool, dtype)
        return measured[dtype]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "matmul_speed", matmul_speed)
        yield
