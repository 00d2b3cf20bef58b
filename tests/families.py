"""Many small cases of one claim in one test: a test of its own costs each a millisecond or two, many times what it computes."""

import pytest


def each(cases, claim) -> None:
    """The claim of every case. Those of which it does not hold are named, all of them; the first one's traceback is shown."""
    failed = []
    for case in cases:
        try:
            claim(*case) if isinstance(case, tuple) else claim(case)
        except (Exception, pytest.fail.Exception) as error:
            failed.append((case, error))
    if failed:
        said = "\n".join(f"{case}: {type(error).__name__}: {error}" for case, error in failed)
        raise AssertionError(f"of {len(failed)} cases it does not hold:\n{said}") from failed[0][1]
