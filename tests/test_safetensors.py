"""safetensors, rule by rule: what is written, what is read, what is refused and with which words."""

import json
import math
import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numgpt import files, safetensors
from numgpt.bfloat16 import BFloat16
from numgpt.files import FormatError

# In the order of a file; NumPy has no bfloat16.
DTYPES = {"U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8", "F32": "<f4", "U32": "<u4", "I32": "<i4",
          "BF16": None, "F16": "<f2", "U16": "<u2", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
SIZES = {code: np.dtype(name or "<u2").itemsize for code, name in DTYPES.items()}


def raw(header, data: bytes = b"") -> bytes:
    """A file of that header, as text, bytes or JSON, and data."""
    text = json.dumps(header) if isinstance(header, dict) else header
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text)) + text + data


def one(shape="[2]", offsets="[0,2]", dtype='"U8"', more="") -> str:
    """The header of a tensor "a"."""
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}}}'


def several(*places) -> dict:
    """A header of tensors "a", "b", ... of bytes at those places."""
    return {chr(97 + i): {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
            for i, (begin, end) in enumerate(places)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def opened(path, content: bytes) -> dict:
    path.write_bytes(content)
    return safetensors.read(path)


# -- what is refused

NUMBERS = "must be a list of whole numbers; it is"
PLACES = "tensor 'a': data_offsets must be where it begins and where it ends; they are"
TOO_MANY = "has more bytes than can be counted"


@pytest.mark.parametrize("content, says", [
    # the length
    (b"", "it is empty"),
    (b"\2\0\0\0\0\0\0", "it has 7 bytes; the length of the header alone takes 8"),
    (b"\3\0\0\0\0\0\0\0{}", "it claims a header of 3 bytes; 2 are there"),
    (b"\xff" * 8 + b"{}", f"it claims a header of {2**64 - 1} bytes; 100000000 are allowed"),
    (struct.pack("<Q", 100_000_001), "it claims a header of 100000001 bytes; 100000000 are allowed"),
    (struct.pack("<Q", 100_000_000), "it claims a header of 100000000 bytes; 0 are there"),
    # the text
    (raw(b""), "the header does not begin with {"),
    (raw(b'{"\xff":0}'), "the header is not UTF-8 at byte 2"),
    (raw(b'{"a\xc3":0}'), "the header is not UTF-8 at byte 3"),
    (raw(b'{"\xed\xa0\x80":0}'), "the header is not UTF-8 at byte 2"),  # half of a surrogate pair, encoded
    (raw("{}".encode("utf-16")), "the header is not UTF-8 at byte 0"),
    (raw(b"\xef\xbb\xbf{}"), "the header does not begin with {, but with a byte order mark"),
    (raw(" {}"), "the header does not begin with {"),
    (raw("[]"), "the header does not begin with {"),
    (raw("{} x"), "the header is not JSON: Extra data"),
    (raw("{}{}"), "the header is not JSON: Extra data"),
    (raw("{}\0\0"), "the header is not JSON: Extra data"),
    (raw("{"), "the header is not JSON: Expecting property name enclosed in double quotes"),
    (raw(one()[:-1] + ",}", b"12"), "the header is not JSON"),
    (raw("{'a':1}"), "the header is not JSON"),
    (raw('{"a\n":1}'), "the header is not JSON: Invalid control character"),
    (raw('{"a\0":1}'), "the header is not JSON: Invalid control character"),
    (raw('{"a\x1f":1}'), "the header is not JSON: Invalid control character"),
    (raw('{"\\x61":1}'), "the header is not JSON: Invalid \\escape"),
    (raw('{"a":' * 100_000), "the header is nested too deeply"),
    (raw('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "the header is nested too deeply"),
    # text that is not Unicode
    (raw('{"\\ud800":{}}'), "'\\ud800' holds half of a surrogate pair"),
    (raw('{"\\udc00\\ud800":{}}'), "holds half of a surrogate pair"),
    (raw('{"__metadata__":{"a":"\\udfff"}}'), "'\\udfff' holds half of a surrogate pair"),
    (raw('{"__metadata__":{"\\ud83d":"a"}}'), "'\\ud83d' holds half of a surrogate pair"),
    # numbers
    (raw(one(shape="[-2]"), b"12"), "the number '-2' is not a whole number from 0 to 2**64 - 1"),
    (raw(one(offsets="[-0,2]"), b"12"), "the number '-0' is not a whole number from 0"),
    (raw(one(shape="[2.0]"), b"12"), "the number '2.0' is not a whole number"),
    (raw(one(offsets="[0,2e0]"), b"12"), "the number '2e0' is not a whole number"),
    (raw(one(offsets="[0,0.2E+1]"), b"12"), "the number '0.2E+1' is not a whole number"),
    (raw(one(shape=f"[{2**64}]"), b"12"), f"the number '{2**64}' is not a whole number from 0 to 2**64 - 1"),
    (raw(one(shape=f"[{'9' * 10_000}]"), b"12"), "is not a whole number from 0 to 2**64 - 1"),
    (raw(one(shape="[NaN]"), b"12"), "the number 'NaN' is not a whole number"),
    (raw(one(shape="[Infinity]"), b"12"), "the number 'Infinity' is not a whole number"),
    (raw(one(shape="[-Infinity]"), b"12"), "the number '-Infinity' is not a whole number"),
    (raw(one(shape="[02]"), b"12"), "the header is not JSON"),
    (raw(one(shape="[+2]"), b"12"), "the header is not JSON"),
    (raw(one(shape="[true,2]"), b"12"), f"tensor 'a': shape {NUMBERS} [True, 2]"),
    (raw(one(offsets="[false,2]"), b"12"), f"tensor 'a': data_offsets {NUMBERS} [False, 2]"),
    (raw(one(shape='["2"]'), b"12"), f"tensor 'a': shape {NUMBERS} ['2']"),
    (raw(one(shape="[[2]]"), b"12"), f"tensor 'a': shape {NUMBERS} [[2]]"),
    (raw(one(shape="[null]"), b"12"), f"tensor 'a': shape {NUMBERS} [None]"),
    # fields
    (raw({"a": {"shape": [2], "data_offsets": [0, 2]}}, b"12"), "tensor 'a' has no dtype"),
    (raw({"a": {"dtype": "U8", "data_offsets": [0, 2]}}, b"12"), "tensor 'a' has no shape"),
    (raw({"a": {"dtype": "U8", "shape": [2]}}, b"12"), "tensor 'a' has no data_offsets"),
    (raw(one(dtype='"F8_E5M2"'), b"12"), "tensor 'a' has the dtype 'F8_E5M2'; known are U64, I64"),
    (raw(one(dtype='"u8"'), b"12"), "tensor 'a' has the dtype 'u8'"),
    (raw(one(dtype="null"), b"12"), "tensor 'a' has the dtype None"),
    (raw(one(dtype='["U8"]'), b"12"), "tensor 'a' has the dtype ['U8']"),
    (raw(one(dtype='{"U8":{}}'), b"12"), "tensor 'a' has the dtype {'U8': {}}"),
    (raw(one(shape="2"), b"12"), f"tensor 'a': shape {NUMBERS} 2"),
    (raw(one(shape="null"), b"12"), f"tensor 'a': shape {NUMBERS} None"),
    (raw(one(shape="{}"), b"12"), f"tensor 'a': shape {NUMBERS} {{}}"),
    (raw(one(shape='"2"'), b"12"), f"tensor 'a': shape {NUMBERS} '2'"),
    (raw(one(shape="[" + "1," * 64 + "2]"), b"12"), "tensor 'a' has 65 axes; NumPy has at most 64"),
    (raw(one(offsets="[2]"), b"12"), f"{PLACES} [2]"),
    (raw(one(offsets="[0,2,2]"), b"12"), f"{PLACES} [0, 2, 2]"),
    (raw(one(offsets="[2,0]"), b"12"), f"{PLACES} [2, 0]"),
    (raw(one(offsets="null"), b"12"), f"tensor 'a': data_offsets {NUMBERS} None"),
    (raw('{"a":["U8",[2],[0,2]]}', b"12"), "tensor 'a' must be described by an object; it is a list"),
    (raw('{"a":null}'), "tensor 'a' must be described by an object; it is null"),
    (raw('{"a":"U8"}'), "tensor 'a' must be described by an object; it is a text"),
    (raw('{"a":true}'), "tensor 'a' must be described by an object; it is a boolean"),
    (raw('{"":7}'), "tensor '' must be described by an object; it is a number"),
    # metadata
    (raw('{"__metadata__":{"a":1}}'), "__metadata__ must map text to text"),
    (raw('{"__metadata__":{"a":null}}'), "__metadata__ must map text to text"),
    (raw('{"__metadata__":{"a":{"b":"c"}}}'), "__metadata__ must map text to text"),
    (raw('{"__metadata__":["a"]}'), "__metadata__ must map text to text"),
    (raw('{"__metadata__":"a"}'), "__metadata__ must map text to text"),
    (raw('{"__metadata__":null}'), "__metadata__ must map text to text"),
    # a name twice, at each level
    (raw(one()[:-1] + "," + one()[1:], b"12"), "'a' is there twice"),
    (raw(one(more=',"shape":[2]'), b"12"), "'shape' is there twice"),
    (raw(one(more=',"\\u0073hape":[2]'), b"12"), "'shape' is there twice"),
    (raw('{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' is there twice"),
    (raw('{"__metadata__":{"b":"1","b":"1"}}'), "'b' is there twice"),
    # sizes
    (raw(one(shape="[3]"), b"12"), "tensor 'a': U8 of shape [3] takes 3 bytes; data_offsets [0, 2] leave 2"),
    (raw(one(shape="[]"), b"12"), "tensor 'a': U8 of shape [] takes 1 bytes; data_offsets [0, 2] leave 2"),
    (raw(one(shape="[2,0]"), b"12"), "tensor 'a': U8 of shape [2, 0] takes 0 bytes; data_offsets [0, 2] leave 2"),
    (raw(one(dtype='"I16"'), b"12"), "tensor 'a': I16 of shape [2] takes 4 bytes; data_offsets [0, 2] leave 2"),
    # products that a 64-bit integer cannot hold: 2**64 and 2**65 are 0 and 2**64 + 2 is 2 in one that wraps around
    (raw(one(shape=f"[{2**32},{2**32}]", offsets="[0,0]")),
     f"tensor 'a': the shape [{2**32}, {2**32}] {TOO_MANY}"),
    (raw(one(shape=f"[{2**62}]", offsets="[0,0]", dtype='"U64"')), TOO_MANY),
    (raw(one(shape=f"[{2**63 + 1}]", dtype='"U16"'), b"12"), TOO_MANY),
    (raw(one(shape=f"[0,{2**63}]", offsets="[0,0]")), f"the shape [0, {2**63}] {TOO_MANY}"),
    (raw(one(shape=f"[{2**40},{2**40},0]", offsets="[0,0]")), TOO_MANY),
    # places
    (raw(several((1, 3)), b"-12"), "tensor 'a' begins at byte 1 of the data, where the one before it ends at 0"),
    (raw(several((0, 2), (3, 4)), b"12-3"),
     "tensor 'b' begins at byte 3 of the data, where the one before it ends at 2: tensors follow each other without "
     "holes or overlaps"),
    (raw(several((0, 2), (1, 4)), b"1234"),
     "tensor 'b' begins at byte 1 of the data, where the one before it ends at 2"),
    (raw(several((2, 4), (0, 3)), b"1234"),
     "tensor 'a' begins at byte 2 of the data, where the one before it ends at 3"),
    (raw(several((0, 2), (0, 2)), b"12"), "tensor 'b' begins at byte 0 of the data, where the one before it ends at 2"),
    (raw(several((0, 2), (1, 1)), b"12"), "tensor 'b' begins at byte 1 of the data, where the one before it ends at 2"),
    (raw(several((0, 2), (2, 4)), b"12345"), "the tensors end at byte 4 of the data; the data ends at 5"),
    (raw(several((0, 2), (2, 4)), b"123"), "the tensors end at byte 4 of the data; the data ends at 3"),
    (raw("{}", b"1"), "the tensors end at byte 0 of the data; the data ends at 1"),
    (raw(one(shape=f"[{2**60}]", offsets=f"[0,{2**60}]"), b"12"),
     f"the tensors end at byte {2**60} of the data; the data ends at 2"),
], ids=lambda item: repr(item[8:40]) if isinstance(item, bytes) else item[:20])
def test_what_breaks_a_rule_is_refused_with_its_file_its_tensor_and_the_rule(path, content, says):
    with pytest.raises(FormatError) as refusal:
        opened(path, content)
    assert str(refusal.value).startswith(f"{path} is not a safetensors file: ") and says in str(refusal.value)
    assert len(str(refusal.value)) < 300 + len(str(path))  # a sentence, however long what it speaks of is


def test_a_header_of_exactly_the_most_bytes_is_read_and_of_one_more_refused(path, monkeypatch):
    monkeypatch.setattr(safetensors, "LONGEST_HEADER", 48)
    assert opened(path, raw("{}" + " " * 46)) == {}
    with pytest.raises(FormatError, match="it claims a header of 49 bytes; 48 are allowed"):
        opened(path, raw("{}" + " " * 47))
    with pytest.raises(ValueError, match="the header of 1 tensors would be 5. bytes long; the format allows 48"):
        safetensors.write(path, {"a": np.zeros(1, "u1")})


def test_a_byte_that_is_no_boolean_is_refused_when_its_tensor_is_fetched(path):
    path.write_bytes(raw(several((0, 2)) | {"m": {"dtype": "BOOL", "shape": [3], "data_offsets": [2, 5]}}, b"12\1\0\2"))
    with safetensors.File(path) as file:
        assert file["a"].tobytes() == b"12"
        says = "x.safetensors: tensor 'm' is BOOL and holds a byte that is neither 0 nor 1"
        with pytest.raises(FormatError, match=says):
            file["m"]


@pytest.mark.skipif(sys.platform != "linux", reason="the open files of a process are read from /proc")
def test_a_refused_file_is_closed(path):
    path.write_bytes(raw("{} x"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(FormatError):
            safetensors.File(path)
    assert len(os.listdir("/proc/self/fd")) == before


# -- what is read


def of_bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, "u1")


@pytest.mark.parametrize("content, wanted", [
    (raw("{}"), {}),
    (raw("{}" + " \n\t\r" * 3), {}),
    (raw('{ "__metadata__" : { } }'), {}),
    (raw(one(), b"12"), {"a": of_bytes(b"12")}),
    (raw(one(shape="[]", offsets="[0,1]"), b"1"), {"a": np.array(49, "u1")}),
    (raw(one(shape="[0]", offsets="[0,0]")), {"a": of_bytes(b"")}),
    (raw(one(shape="[3,0,2]", offsets="[0,0]", dtype='"F32"')), {"a": np.zeros((3, 0, 2), "f4")}),
    (raw(one(shape=f"[0,{2**60}]", offsets="[0,0]")), {"a": np.zeros((0, 2**60), "u1")}),
    (raw(one(shape="[" + "1," * 63 + "2]"), b"12"), {"a": of_bytes(b"12").reshape([1] * 63 + [2])}),
    (raw(one(shape="[1]", dtype='"U16"'), b"\1\2"), {"a": np.array([0x0201], "u2")}),  # little-endian
    # in the order of the offsets, not of the header, and with none between
    (raw(several((2, 4), (0, 2)), b"1234"), {"a": of_bytes(b"34"), "b": of_bytes(b"12")}),
    (raw(several((0, 2), (2, 2), (2, 4)), b"1234"),
     {"a": of_bytes(b"12"), "b": of_bytes(b""), "c": of_bytes(b"34")}),
    (raw(several((2, 4), (2, 2), (0, 2)), b"1234"),
     {"a": of_bytes(b"34"), "b": of_bytes(b""), "c": of_bytes(b"12")}),
    # at an odd byte: NumPy reads what is not aligned, too
    (raw({"b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}} | several((0, 1)), b"1\0\0\x80\x3f"),
     {"a": np.array([49], "u1"), "b": np.ones(1, "f4")}),
    (raw('{"\\ud83d\\ude00é":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"\xff"),
     {"\U0001f600é": np.array([-1], "i1")}),
    (raw('{"a\\u0000\\n":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}', b"\0\1"),
     {"a\0\n": np.array([False, True])}),
    (raw('{"":{"dtype":"BOOL","shape":[0],"data_offsets":[0,0]}}'), {"": np.zeros(0, bool)}),
], ids=lambda item: repr(item[8:48]) if isinstance(item, bytes) else "")
def test_what_breaks_no_rule_is_read(path, content, wanted):
    found = opened(path, content)
    assert list(found) == list(wanted) or sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_bfloat16_is_read_as_the_upper_half_of_float32_nan_and_infinity_included(path):
    bits = np.arange(1 << 16, dtype="<u2")
    header = {"a": {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, 1 << 17]}}
    found = opened(path, raw(header, bits.tobytes()))["a"]
    assert found.dtype == np.float32 and found.shape == (256, 256)
    assert np.array_equal(found.reshape(-1).view("u4"), bits.astype("u4") << 16)


def test_a_file_is_a_mapping_of_names_to_arrays_with_its_metadata_beside(path):
    safetensors.write(path, {"b": np.ones(2), "a": np.zeros((0, 3), "f4")}, {"format": "é"})
    with safetensors.File(path) as file:
        assert sorted(file) == ["a", "b"] and len(file) == 2 and "a" in file and "c" not in file
        assert file.metadata == {"format": "é"}
        assert (file.entries["b"].dtype, file.entries["b"].shape) == ("F64", (2,))
        with pytest.raises(KeyError, match="c"):
            file["c"]


def test_arrays_live_on_when_the_file_is_closed_deleted_and_written_anew(path):
    wanted = {"a": np.arange(10_000.0), "b": np.array([True, False]), "c": BFloat16.of(np.ones(3))}
    safetensors.write(path, wanted)
    found = safetensors.read(path)
    safetensors.write(path, {"a": found["a"] + 1, "d": found["b"]})  # in the place of what found is a mapping of
    assert np.array_equal(safetensors.read(path)["a"], wanted["a"] + 1)
    path.unlink()
    assert np.array_equal(found["a"], wanted["a"])
    assert found["b"].tolist() == [True, False] and found["c"].tolist() == [1, 1, 1]


def test_mapped_arrays_refuse_to_be_written_to(path):
    safetensors.write(path, {"a": np.arange(3.0), "b": np.array([True])})
    for array in safetensors.read(path).values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and the count of pages touched")
def test_a_header_and_a_tensor_cost_nothing_that_is_not_looked_at(path):
    import resource

    size = 3 << 29  # bytes of each of two tensors, in a file that takes up next to nothing on the disk
    header = {name: {"dtype": "F32", "shape": [size >> 12, 1 << 10], "data_offsets": [i * size, (i + 1) * size]}
              for i, name in enumerate("ab")}
    path.write_bytes(raw(header))
    with open(path, "r+b") as file:
        file.truncate(len(raw(header)) + 2 * size)
    safetensors.read(path)  # what is done once only is done
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    try:
        b = safetensors.read(path)["b"]
        assert b[-1, -1] == 0 and b.nbytes == size
        touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1 << 20  # of 3 GB; measured: 20 kB
    assert touched < 1000  # pages, of 800,000; measured: a few dozen


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files")
@pytest.mark.parametrize("claimed", [99_999_999, 100_000_000, 100_000_001, 2**40, 2**63, 2**64 - 1])
def test_a_claimed_header_takes_no_memory_before_it_is_known_to_be_there(path, claimed):
    path.write_bytes(struct.pack("<Q", claimed) + b"{}")
    with open(path, "r+b") as file:
        file.truncate(99_999_999)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="it claims a header"):
            safetensors.File(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# -- what is written


def header_of(path) -> tuple[bytes, dict, int]:
    """The header as bytes and as JSON, and where the data begins."""
    content = path.read_bytes()
    n = struct.unpack("<Q", content[:8])[0]
    return content[8:8 + n], json.loads(content[8:8 + n]), 8 + n


def arrays_of_all_types() -> dict:
    rng = np.random.default_rng(0)
    arrays = {}
    for code, dtype in DTYPES.items():
        for name in "ba":
            bits = rng.integers(0, 2 if code == "BOOL" else 256, (3, SIZES[code]), dtype="u1")
            arrays[name + code] = BFloat16(bits.view("<u2")) if code == "BF16" else bits.view(dtype)
    return {name: arrays[name] for name in rng.permutation(sorted(arrays))}


def test_tensors_lie_widest_first_then_by_name_each_aligned_to_its_size(path):
    safetensors.write(path, arrays_of_all_types(), {"z": "1", "a": "2"})
    _, header, start = header_of(path)
    assert list(header) == ["__metadata__", *(name + code for code in DTYPES for name in "ab")]
    end = 0
    for name, entry in list(header.items())[1:]:
        assert entry["dtype"] == name[1:] and entry["data_offsets"] == [end, end + 3 * SIZES[name[1:]]]
        assert (start + end) % SIZES[name[1:]] == 0
        end = entry["data_offsets"][1]
    assert path.stat().st_size == start + end


def test_the_header_is_compact_and_padded_with_spaces_to_a_multiple_of_8(path):
    for n in range(9):  # every remainder
        name = "é" + "x" * n
        safetensors.write(path, {name: np.ones((2, 1), "f4")}, {"k": "v"})
        text, header, start = header_of(path)
        compact = ('{"__metadata__":{"k":"v"},"%s":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}' % name).encode()
        assert text.rstrip(b" ") == compact and len(text) - len(compact) < 8 and start % 8 == 0


def test_without_metadata_there_is_none_and_without_tensors_an_empty_header(path):
    for metadata in (None, {}):
        safetensors.write(path, {}, metadata)
        assert path.read_bytes() == b"\x08\0\0\0\0\0\0\0{}      "
    safetensors.write(path, {}, {"a": ""})
    assert safetensors.File(path).metadata == {"a": ""}


def test_what_is_written_does_not_depend_on_the_order_in_which_it_is_given(path):
    arrays = arrays_of_all_types()
    safetensors.write(path, arrays)
    content = path.read_bytes()
    safetensors.write(path, dict(reversed(arrays.items())))
    assert path.read_bytes() == content


LAYOUTS = {
    "as it is": lambda a: a,
    "fortran": np.asfortranarray,
    "turned": lambda a: np.ascontiguousarray(a.T).T,
    "strided": lambda a: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a,
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "odd": lambda a: np.frombuffer(b"x" + a.tobytes(), "u1")[1:].view(a.dtype).reshape(a.shape),  # not aligned
    "broadcast": lambda a: np.broadcast_to(a.reshape(-1)[:1].reshape([1] * a.ndim), a.shape) if a.size else a,
}


@st.composite
def tensors(draw):
    """An array of random bits, nan and subnormals among them, and what reading it back must give."""
    code, shape = draw(st.sampled_from([*DTYPES])), draw(st.lists(st.integers(0, 4), max_size=4))
    size = math.prod(shape)
    bits = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size * SIZES[code])
    if code == "BOOL":
        bits = bytes(byte & 1 for byte in bits)
    array = LAYOUTS[draw(st.sampled_from([*LAYOUTS]))](np.frombuffer(bits, DTYPES[code] or "<u2").reshape(shape))
    if draw(st.booleans()):
        array = array.copy("K")  # not read-only
    return code, BFloat16(array) if code == "BF16" else array


texts = st.text(max_size=9)


@given(st.dictionaries(texts, tensors(), max_size=6), st.dictionaries(texts, texts, max_size=3))
def test_all_types_shapes_layouts_names_and_metadata_come_back_bit_for_bit(tmp_path_factory, arrays, metadata):
    assume("__metadata__" not in arrays)
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    safetensors.write(path, {name: array for name, (_, array) in arrays.items()}, metadata)
    with safetensors.File(path) as file:
        assert file.metadata == metadata and set(file) == set(arrays)
        for name, (code, array) in arrays.items():
            given_ = array.bits if code == "BF16" else array
            assert (file.entries[name].dtype, file.entries[name].shape) == (code, given_.shape)
            found = file[name]
            if code == "BF16":
                assert found.dtype == np.float32 and found.shape == given_.shape
                assert found.tobytes() == (given_.astype("<u4") << 16).astype("<u4").tobytes()
            else:
                assert found.dtype == np.dtype(DTYPES[code]) and found.shape == given_.shape
                assert found.tobytes() == given_.astype(DTYPES[code]).tobytes()


def test_a_numpy_scalar_is_an_array_without_axes(path):
    safetensors.write(path, {"a": np.float32(1.5), "b": np.array(2), "c": np.True_})
    found = safetensors.read(path)
    assert found["a"].shape == found["b"].shape == found["c"].shape == ()
    assert found["a"] == 1.5 and found["b"] == 2 and found["c"] == True  # noqa: E712


@pytest.mark.parametrize("arrays, metadata, error, says", [
    ({"a": [1.0]}, None, TypeError, "tensor 'a' must be a NumPy array; got list"),
    ({"a": 1.0}, None, TypeError, "tensor 'a' must be a NumPy array; got float"),
    ({"a": np.zeros(1, "c16")}, None, TypeError,
     "no type for tensor 'a' of complex128: convert it with astype first, to one of uint64"),
    ({"a": np.zeros(1, object)}, None, TypeError, "no type for tensor 'a' of object"),
    ({"a": np.zeros(1, "U3")}, None, TypeError, "no type for tensor 'a' of <U3"),
    ({"a": np.zeros(1, "M8[s]")}, None, TypeError, "no type for tensor 'a' of datetime64"),
    ({"a": np.zeros(1, "f4,f4")}, None, TypeError, "no type for tensor 'a' of"),
    ({1: np.zeros(1)}, None, TypeError, "a tensor's name must be text; got 1"),
    ({"\ud800": np.zeros(1)}, None, ValueError,
     "a tensor's name holds half of a surrogate pair, which UTF-8 cannot say: '\\ud800'"),
    ({"__metadata__": np.zeros(1)}, None, ValueError, "'__metadata__' is the header's own; name the tensor otherwise"),
    ({}, {"a": 1}, TypeError, "the metadata's 'a' must be text; got 1"),
    ({}, {1: "a"}, TypeError, "a name in the metadata must be text; got 1"),
    ({}, {"a": "\udfff"}, ValueError, "the metadata's 'a' holds half of a surrogate pair"),
])
def test_what_cannot_be_written_is_refused_and_the_old_file_stays(path, arrays, metadata, error, says):
    safetensors.write(path, {"old": np.ones(1)})
    with pytest.raises(error) as refusal:
        safetensors.write(path, {"new": np.ones(1), **arrays}, metadata)
    assert says in str(refusal.value)
    assert list(safetensors.read(path)) == ["old"] and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("stage", ["no memory for an array", "interrupted", "the disk is full", "the rename fails"])
def test_an_error_on_the_way_leaves_the_old_file_and_no_other(path, monkeypatch, stage):
    safetensors.write(path, {"old": np.ones(3)})
    content = path.read_bytes()
    error = KeyboardInterrupt if stage == "interrupted" else OSError
    owner, name, call = {"the disk is full": (files.os, "fsync", 1), "the rename fails": (files.os, "replace", 1)}.get(
        stage, (safetensors.np, "ascontiguousarray", 2))  # half way: at the second of two arrays
    works, calls = getattr(owner, name), []

    def fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise error(stage)
        return works(*arguments, **options)

    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(error, match=stage):
        safetensors.write(path, {"a": np.zeros(3), "b": np.zeros(3)})
    monkeypatch.undo()
    assert len(calls) == call and path.read_bytes() == content and [*path.parent.iterdir()] == [path]


def test_the_new_file_takes_the_place_only_when_all_of_it_is_on_the_disk(path, monkeypatch):
    happened = []
    fsync, replace = files.os.fsync, files.os.replace

    def synced(number):
        happened.append("fsync")
        fsync(number)

    def replaced(source, target):
        happened.append("replace")
        assert safetensors.read(source)["a"].tolist() == [0, 0, 0] and not path.exists()
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    safetensors.write(path, {"a": np.zeros(3)})
    assert happened[:2] == ["fsync", "replace"] and [*path.parent.iterdir()] == [path]


# -- bfloat16


def test_every_float32_beside_a_bfloat16_or_between_two_is_rounded_as_exact_arithmetic_says():
    upper = np.arange(1 << 16, dtype="u4") << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "u4")  # on it, beside it, about half way, beside the next
    bits = (upper[:, None] + lower).reshape(-1)
    bits = bits[np.isfinite(bits.view("f4"))]
    x = bits.view("f4").astype("f8")
    below = bits >> 16  # towards zero
    # float64 has x, its neighbours and their distances exactly. What would come after the largest bfloat16 is 2**128,
    # which is written as infinity.
    near, far = ((n << 16).view("f4").astype("f8") for n in (below, below + 1))
    far = np.where(np.isinf(far), np.copysign(2.0**128, x), far)
    to_near, to_far = np.abs(x - near), np.abs(far - x)
    wanted = np.where((to_far < to_near) | ((to_far == to_near) & (below % 2 == 1)), below + 1, below)
    found = BFloat16.of(bits.view("f4")).bits
    assert found.dtype == np.uint16 and np.array_equal(found, wanted)
    assert np.count_nonzero(to_far == to_near) == 255 * 2 * 128  # ties there were: every finite one, subnormal ones too


@pytest.mark.parametrize("x, bits", [
    (1.0, 0x3F80), (-2.0, 0xC000), (0.0, 0x0000), (-0.0, 0x8000), (np.inf, 0x7F80), (-np.inf, 0xFF80),
    (1 + 2.0**-8, 0x3F80), (1 + 3 * 2.0**-8, 0x3F82),  # ties: down to even, up to even
    (3.4028234663852886e38, 0x7F80),                    # the largest float32 is nearer to 2**128
    (3.3895313892515355e38, 0x7F7F),                    # the largest bfloat16
    (1e-45, 0x0000), (2.0**-133, 0x0001), (2.0**-134, 0x0000), (3 * 2.0**-134, 0x0002),  # subnormals round as others do
])
def test_known_numbers(x, bits):
    assert BFloat16.of(np.array([x], "f4")).bits.tolist() == [bits]
    assert BFloat16.of(np.array([x], ">f4")).bits.tolist() == [bits]


def test_float64_is_rounded_once_and_not_by_way_of_float32():
    lower = np.arange(0x7F80, dtype="u4")  # every finite bfloat16 from 0 on
    below, above = ((n << 16).view("f4").astype("f8") for n in (lower, lower + 1))
    above[-1] = 2.0**128  # which is written as infinity
    tie = below + (above - below) / 2  # exact: a bit more than bfloat16 has
    for x, wanted in ((tie, lower + lower % 2), (np.nextafter(tie, 0), lower), (np.nextafter(tie, np.inf), lower + 1)):
        assert np.array_equal(BFloat16.of(x).bits, wanted)
        assert np.array_equal(BFloat16.of(-x).bits, wanted | 0x8000)
    assert BFloat16.of(np.array([np.inf, -np.inf])).bits.tolist() == [0x7F80, 0xFF80]
    assert np.isnan(BFloat16.of(np.array([np.nan, -np.nan])).floats()).all()


def test_nan_stays_nan_and_keeps_its_sign_whatever_its_bits():
    bits = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0x7F80FFFF, 0xFF800001, 0xFFFFFFFF], "u4")
    rounded = BFloat16.of(bits.view("f4"))
    assert np.isnan(rounded.floats()).all() and np.array_equal(rounded.bits >> 15, bits >> 31)


def test_bfloat16_numbers_are_rounded_to_themselves():
    bits = np.arange(1 << 16, dtype="u2")
    floats = BFloat16(bits).floats()
    numbers = ~np.isnan(floats)
    assert np.array_equal(BFloat16.of(floats).bits[numbers], bits[numbers])
    assert np.isnan(BFloat16.of(floats).floats()[~numbers]).all()


def test_the_shape_stays_in_any_layout():
    x = np.arange(24, dtype="f4").reshape(2, 3, 4)
    for a in (x, x.T, x[:, ::2], x[::-1], x[:0]):
        assert BFloat16.of(a).shape == a.shape and np.array_equal(BFloat16.of(a).floats(), a)


# -- what was found by trying to break it


def test_more_tensors_than_a_process_may_have_maps_are_read(tmp_path):
    resource = pytest.importorskip("resource")
    tensors = {f"t{i}": np.full(3, i, "i2" if i % 2 else "f8") for i in range(300)}
    safetensors.write(tmp_path / "many", {**tensors, "empty": np.zeros((0, 3))})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 40, hard))
    try:
        found = safetensors.read(tmp_path / "many")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for name, array in tensors.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
    assert found["empty"].shape == (0, 3)


def test_a_file_that_was_cut_short_after_it_was_opened_is_refused(tmp_path):
    safetensors.write(tmp_path / "file", {"a": np.zeros(100_000)})
    with safetensors.File(tmp_path / "file") as file:
        with open(tmp_path / "file", "r+b") as cut:
            cut.truncate(5000)
        with pytest.raises(FormatError, match="was cut short while it was read"):
            file["a"]


def test_a_single_bfloat16_keeps_its_shape_and_comes_as_an_array(tmp_path):
    safetensors.write(tmp_path / "one", {"a": BFloat16.of(np.float64(1.5))})
    with safetensors.File(tmp_path / "one") as file:
        assert isinstance(file["a"], np.ndarray) and file["a"].shape == () and file["a"] == 1.5


# -- what is at the edge of the machine


@pytest.mark.parametrize("code", DTYPES)
def test_what_the_header_may_say_of_an_empty_tensor_can_be_fetched_in_every_type(path, code):
    for axis in sorted({2**power // SIZES[code] + more for power in range(60, 64) for more in (-1, 0)}):
        header = {"a": {"dtype": code, "shape": [0, axis], "data_offsets": [0, 0]}}
        try:
            path.write_bytes(raw(header))
            file = safetensors.File(path)
        except FormatError as refusal:
            assert TOO_MANY in str(refusal) and axis >= 2**60
            continue
        with file:
            assert file["a"].shape == (0, axis)


def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(path):
    for more in (',"x":"\\ud800"', ',"x":["\\ud800"]', ',"x":[["a",{"\\ud800":0}]]', ',"x":[{"a":["\\udc00"]}]'):
        with pytest.raises(FormatError, match="holds half of a surrogate pair"):
            opened(path, raw(one(more=more), b"12"))
