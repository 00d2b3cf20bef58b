"""The lines that README gives to porters, compiled and run: NumPy reads the files that they write."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
SHAPES = [(), (5,), (2, 3, 4), (0, 3), (1, 1, 1, 1, 1, 10)]  # the last makes a header that is not the others'

# Each writes 0.npy, 1.npy and so on, one for each shape, of the numbers 0.5 k - 3.
MAINS = {
    "c": """
int main(void) {
    float x[64];
    for (int k = 0; k < 64; k++) x[k] = 0.5f * k - 3;
    %s
    return 0;
}
""",
    "rust": """
fn main() {
    let x: Vec<f32> = (0..64).map(|k| 0.5 * k as f32 - 3.0).collect();
    %s
}
"""}
CALLS = {"c": lambda i, shape: 'save_npy("%d.npy", x, %d, (long[]){%s});' % (i, len(shape), ", ".join(map(str, shape)) or 0),
         "rust": lambda i, shape: 'save_npy("%d.npy", &x[..%d], &%s).unwrap();' % (i, int(np.prod(shape)), list(shape))}
COMPILERS = {"c": ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror"], "rust": ["rustc", "--edition=2021"]}


def block(language: str) -> str:
    """The first block of code in a language after a line that speaks of npy."""
    found = re.search(rf"^[^\n]*npy.*?^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)
    assert found, f"README has no block of {language} after a line that speaks of npy"
    return found[1]


@pytest.mark.verify
@pytest.mark.parametrize("language", COMPILERS)
def test_numpy_reads_what_the_lines_for_porters_write(tmp_path, language):
    compiler, *options = COMPILERS[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here to compile the lines with")
    source = tmp_path / f"main.{'rs' if language == 'rust' else language}"
    calls = "\n    ".join(CALLS[language](i, shape) for i, shape in enumerate(SHAPES))
    source.write_text(block(language) + MAINS[language] % calls)
    subprocess.run([compiler, *options, source.name, "-o", "written"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "written"], cwd=tmp_path, check=True)
    for i, shape in enumerate(SHAPES):
        array = np.load(tmp_path / f"{i}.npy", allow_pickle=False)
        assert array.dtype == np.float32 and array.shape == shape and array.flags.c_contiguous
        assert np.array_equal(array.reshape(-1), 0.5 * np.arange(array.size) - 3)
        size = (tmp_path / f"{i}.npy").stat().st_size
        assert size % 64 == array.nbytes % 64 and size - array.nbytes in (64, 128)  # nothing after the numbers
