"""Files are written whole or not at all; JSON is read strictly; arrays are mapped where they lie."""

import errno
import os
import sys
import threading

import numpy as np
import pytest

from numgpt.files import FormatError, mapped, read_json, replacing, replacing_files
from families import each

# -- replacing


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_whatever_is_raised_the_old_file_stays_and_no_other_appears(tmp_path, old, error):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error), replacing(path) as file:
        file.write(b"half" * 100_000)  # more than a buffer: part of it is on the disk
        raise error
    assert [*tmp_path.iterdir()] == ([path] if old is not None else [])
    assert old is None or path.read_bytes() == old


def test_until_the_end_of_the_block_the_old_file_is_there_and_then_the_new_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and [*tmp_path.iterdir()] == [path]


def test_who_holds_the_old_file_open_keeps_it(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with open(path, "rb") as reader:
        with replacing(path) as file:
            file.write(b"newer")
        assert reader.read() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
def test_the_file_reaches_the_disk_before_its_name_does_and_the_name_before_the_end(tmp_path, monkeypatch):
    happened = []
    fsync, replace = os.fsync, os.replace

    def synced(number):
        happened.append("folder" if os.path.samestat(os.fstat(number), os.stat(tmp_path)) else "file")
        fsync(number)

    def replaced(*names):
        happened.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with replacing(tmp_path / "file"):
        pass
    assert happened == ["file", "rename", "folder"]


def test_a_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; a file's name is wanted"), replacing(tmp_path):
        raise AssertionError("not reached")
    assert [*tmp_path.iterdir()] == []


def test_a_missing_folder_is_not_made_up(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "none" / "file"):
        raise AssertionError("not reached")


def test_a_name_without_a_folder_is_in_this_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replacing("file") as file:
        file.write(b"here")
    assert (tmp_path / "file").read_bytes() == b"here"


# -- read_json


@pytest.mark.parametrize("content, says", [
    (b"", "is not JSON: Expecting value"),
    (b'{"a": 1', "is not JSON: Expecting"),
    (b'{"a": 1} x', "is not JSON: Extra data"),
    (b'{"a": "\xff"}', "is not JSON: 'utf-8' codec can't decode byte 0xff"),
    (b'\xef\xbb\xbf{"a": 1}', "is not JSON: Unexpected UTF-8 BOM"),
    (b'{"a": 1, "b": {"a": 2, "a": 2}}', "is not JSON: 'a' is there twice"),
    (b'{"a": 1, "a": 2}', "is not JSON: 'a' is there twice"),
    (b'{"a": ["\\ud800"]}', "is not JSON: '\\ud800' holds half of a surrogate pair"),
    (b'{"a": {"\\udfff": 1}}', "is not JSON: '\\udfff' holds half of a surrogate pair"),
    (b'{"a": NaN}', "is not JSON: NaN is no number in JSON"),
    (b'{"a": [-Infinity]}', "is not JSON: -Infinity is no number in JSON"),
    (b'{"a": Infinity}', "is not JSON: Infinity is no number in JSON"),
    (b'{"a": ' + b"[" * 100_000, "is not JSON: "),  # nested too deeply
    (b"[1]", "must hold a JSON object; it holds list"),
    (b"null", "must hold a JSON object; it holds NoneType"),
    (b'"a"', "must hold a JSON object; it holds str"),
], ids=lambda item: repr(item[:30]))
def test_what_is_no_json_object_is_refused_with_its_file(tmp_path, content, says):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FormatError) as refusal:
        read_json(tmp_path / "x.json")
    assert str(refusal.value).startswith(f"{tmp_path / 'x.json'} {says}")


def test_an_object_is_read_as_it_is(tmp_path):
    (tmp_path / "x.json").write_bytes('{"a": [1, -0.5, 1e3, null, true, "é"], "b": {"a": {}}}\n'.encode())
    assert read_json(str(tmp_path / "x.json")) == {"a": [1, -0.5, 1000, None, True, "é"], "b": {"a": {}}}


# -- mapped


def test_the_array_is_what_lies_at_that_byte_wherever_pages_begin(tmp_path):
    content = np.random.default_rng(0).bytes(90_000)
    (tmp_path / "x").write_bytes(content)

    def lies_there(begin, shape):
        with open(tmp_path / "x", "rb") as file:
            array = mapped(file, begin, shape, "<f4")
        assert array.dtype == np.dtype("<f4") and array.shape == shape
        assert array.tobytes() == content[begin:begin + 4 * int(np.prod(shape))]

    begins = (0, 1, 8, 4095, 4096, 4097, 70_001)  # pages are 4096 bytes or more
    each([(begin, shape) for begin in begins for shape in ((), (3,), (2, 0), (50, 40))], lies_there)


@pytest.mark.skipif(sys.platform != "linux", reason="the maps of a process are read from /proc")
def test_a_mapping_ends_with_its_last_view(tmp_path):
    (tmp_path / "x").write_bytes(bytes(8192))

    def mappings():
        with open("/proc/self/maps") as maps:
            return sum(str(tmp_path) in line for line in maps)

    with open(tmp_path / "x", "rb") as file:
        array = mapped(file, 0, (8192,), "u1")
    view = array[4096:].reshape(64, 64)
    del array
    assert mappings() == 1 and view.sum() == 0
    del view
    assert mappings() == 0


# -- links, permissions, other kinds of files, other writers


@pytest.mark.skipif(os.name != "posix", reason="links and permissions as POSIX has them")
def test_a_link_stays_a_link_and_permissions_stay(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o600)
    link.symlink_to("real")
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names")
def test_a_pipe_is_not_turned_into_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="would not be one any more"), replacing(tmp_path / "pipe"):
        raise AssertionError("not reached")


def test_an_error_of_the_disk_names_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as error, replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert error.value.filename == str(tmp_path / "file") and not [*tmp_path.iterdir()]


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    with replacing(tmp_path / ("n" * 255)) as file:
        file.write(b"new")
    assert len([*tmp_path.iterdir()]) == 1


def test_of_many_writers_at_once_one_wins_whole(tmp_path):
    contents = [bytes([i]) * 300_000 for i in range(8)]

    def write(content):
        with replacing(tmp_path / "file") as file:
            file.write(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents and [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_files_come_together_the_last_of_them_last(tmp_path):
    folder = tmp_path / "deep" / "folder"
    for round_ in (b"1", b"2"):
        with replacing_files(folder, stale=lambda name: name.startswith("old"), last="about") as staging:
            for name in ("about", "part"):
                (staging / name).write_bytes(round_)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"about": round_, "part": round_, **(
            {"kept": b""} if round_ == b"2" else {})}
        (folder / "old part").write_bytes(b"")
        (folder / "kept").write_bytes(b"")
    with pytest.raises(ValueError), replacing_files(folder, stale=bool, last="about") as staging:
        (staging / "about").write_bytes(b"3")
        raise ValueError
    assert (folder / "about").read_bytes() == b"2" and len([*folder.iterdir()]) == 4
    with pytest.raises(ValueError), replacing_files(tmp_path / "new", stale=bool, last="about"):
        raise ValueError
    assert not (tmp_path / "new").exists()
    with pytest.raises(NotADirectoryError, match="it is a file; a folder's name is wanted"), replacing_files(
            folder / "about", stale=bool, last="about"):
        raise AssertionError("not reached")
