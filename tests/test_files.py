"""Files of arrays: what is saved comes back, what is broken is refused in words."""

import errno
import json
import math
import os
import re
import stat
import struct
import warnings
import zipfile

import numpy as np
import pytest
from broken_files import (
    ARRAYS,
    Evil,
    assert_same,
    loads_or_value_error,
    mutated,
    npy_bytes,
    npy_header,
    npz_bytes,
    one_line,
    written,
    zip_bytes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import files, param_files

LOADERS = [files.load_arrays, param_files.load_tf_smoe_pickle, param_files.load_param_arrays]


# ---- atomic_write -------------------------------------------------------------------------------


def test_a_file_is_written_and_nothing_else_is_left(tmp_path):
    with files.atomic_write(tmp_path / "a.bin") as stream:
        stream.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_path_does_not_exist_until_the_file_is_complete(tmp_path):
    with files.atomic_write(tmp_path / "a.bin") as stream:
        stream.write(b"new")
        stream.flush()
        (temporary,) = os.listdir(tmp_path)
        assert re.fullmatch(r"\.a\.bin\.\w+\.tmp", temporary)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, error):
    def write():
        with files.atomic_write(path) as stream:
            stream.write(b"half of the n")
            raise error

    path = written(tmp_path, b"old")
    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_said_in_words_and_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = written(tmp_path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left on the device; free some") as caught:
        files.save_arrays(path, ARRAYS)
    assert caught.value.errno == errno.ENOSPC
    one_line(caught, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_said_in_words(tmp_path):
    path = tmp_path / "nowhere" / "a.npz"
    with pytest.raises(FileNotFoundError, match="create the folder first") as caught:
        files.save_arrays(path, ARRAYS)
    one_line(caught, path)
    assert caught.value.errno == errno.ENOENT


def test_a_file_in_the_place_of_a_folder_is_said_in_words(tmp_path):
    path = written(tmp_path, b"") / "a.npz"
    with pytest.raises(NotADirectoryError, match="a part of the path is a file") as caught:
        files.save_arrays(path, ARRAYS)
    one_line(caught, path)


def test_a_folder_is_not_written_to(tmp_path):
    for path in (tmp_path, f"{tmp_path}/new/"):
        with pytest.raises(IsADirectoryError, match="it is a folder; give the path of a file"):
            files.save_arrays(path, ARRAYS)


def test_a_missing_permission_is_said_in_words(tmp_path, monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", arguments[0])

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(PermissionError, match="permission denied; write to another") as caught:
        files.save_arrays(tmp_path / "a.npz", ARRAYS)
    one_line(caught, tmp_path / "a.npz")


def test_a_write_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = written(tmp_path, b"old")
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="permission denied"):
        files.save_arrays(path, ARRAYS)
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device or the like") as caught:
        files.save_arrays(tmp_path / "pipe", ARRAYS)
    assert caught.value.errno == errno.EINVAL
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_name_that_is_too_long_is_said_in_words(tmp_path):
    with pytest.raises(OSError, match="the name is too long; choose a shorter one"):
        files.save_arrays(tmp_path / ("n" * 300), ARRAYS)


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    files.save_arrays(path, ARRAYS)
    assert path.exists()


def test_trouble_with_another_file_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.atomic_write(tmp_path / "a.bin"):
        os.stat(tmp_path / "other")
    assert caught.value.filename == str(tmp_path / "other")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_new_file_has_the_usual_permissions_and_a_replaced_one_its_own(tmp_path):
    path = tmp_path / "a.npz"
    before = os.umask(0o027)
    try:
        files.save_arrays(path, ARRAYS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        files.save_arrays(path, ARRAYS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights on Windows")
def test_a_symbolic_link_stays_one(tmp_path):
    target = written(tmp_path, b"old", "target")
    (tmp_path / "link").symlink_to(target)
    with files.atomic_write(tmp_path / "link") as stream:
        stream.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("path", [None, 3])
def test_a_path_of_a_wrong_type_is_refused(path):
    with pytest.raises(TypeError, match=r"path is of type \w+; give a str or an os.PathLike"):
        files.save_arrays(path, ARRAYS)


def test_a_path_with_a_null_character_is_refused():
    with pytest.raises(ValueError, match="null character; give a valid path"):
        files.load_arrays("a\0b")


# ---- save_arrays and load_arrays ----------------------------------------------------------------


def test_arrays_and_facts_come_back_as_they_were_saved(tmp_path):
    arrays = {
        **ARRAYS,
        "one.number": np.array(7),
        "none-at-all": np.zeros((0, 3), dtype=np.int16),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j]),
    }
    meta = {"iteration": 12, "history": [{"loss": math.inf}], "name": "größe"}
    files.save_arrays(tmp_path / "a", arrays, meta)
    assert os.listdir(tmp_path) == ["a"]  # nothing is appended to the name
    found, found_meta = files.load_arrays(tmp_path / "a")
    assert_same(found, arrays)
    assert found_meta == meta


def test_arrays_come_back_writable_contiguous_and_in_native_byte_order(tmp_path):
    files.save_arrays(tmp_path / "a", {"a": np.arange(6.0).reshape(2, 3).T.astype(">f8")})
    array = files.load_arrays(tmp_path / "a")[0]["a"]
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3).T)


def test_numpy_reads_what_is_saved(tmp_path):
    files.save_arrays(tmp_path / "a", ARRAYS, {"k": 1})
    with np.load(tmp_path / "a") as archive:
        assert_same({name: archive[name] for name in ARRAYS}, ARRAYS)
        assert json.loads(archive["meta"].tobytes()) == {"k": 1}


def test_the_same_contents_give_the_same_bytes(tmp_path):
    for name in "ab":
        files.save_arrays(tmp_path / name, ARRAYS, {"k": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_compressed_file_without_facts_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    found, meta = files.load_arrays(tmp_path / "a.npz")
    assert_same(found, ARRAYS)
    assert meta == {}


@pytest.mark.parametrize("array", [np.array([None]), np.array(["text"]), np.zeros(1, "f4,f4")])
def test_only_numbers_are_saved(tmp_path, array):
    with pytest.raises(TypeError, match=r"arrays\['a'\] has dtype .*; give an array of numbers"):
        files.save_arrays(tmp_path / "a", {"a": array})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", "a/b", "../a", "meta", "a b", 3])
def test_odd_names_are_not_saved(tmp_path, name):
    with pytest.raises(ValueError, match="arrays has an entry named"):
        files.save_arrays(tmp_path / "a", {name: np.zeros(1)})


def test_facts_that_json_cannot_hold_are_not_saved(tmp_path):
    with pytest.raises(TypeError, match="meta cannot be written as JSON .*; give plain values"):
        files.save_arrays(tmp_path / "a", {}, {"array": np.zeros(2)})
    with pytest.raises(TypeError, match="meta is of type list; give a dict"):
        files.save_arrays(tmp_path / "a", {}, [1])


@pytest.mark.parametrize("load", LOADERS)
def test_a_missing_file_and_a_folder_are_said_in_words(tmp_path, load):
    with pytest.raises(FileNotFoundError, match="there is no such file; check the path") as caught:
        load(tmp_path / "none.npz")
    one_line(caught, tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError, match="a folder; give the path of a file") as caught:
        load(tmp_path)
    one_line(caught, tmp_path)


def test_a_file_that_may_not_be_read_is_said_in_words(tmp_path, monkeypatch):
    def forbidden(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", arguments[0])

    monkeypatch.setattr("builtins.open", forbidden)  # root may read everything
    with pytest.raises(PermissionError, match="denied; change the file's permissions") as caught:
        files.load_arrays(tmp_path / "a.npz")
    one_line(caught, tmp_path / "a.npz")


@pytest.mark.parametrize("load", LOADERS)
def test_an_empty_file_is_refused_in_words(tmp_path, load):
    path = written(tmp_path, b"")
    with pytest.raises(ValueError, match="is empty; save it again") as caught:
        load(path)
    one_line(caught, path)


def test_a_truncated_npz_file_is_refused_in_words(tmp_path):
    data = npz_bytes()
    for length in (1, 4, 30, len(data) // 2, len(data) - 30, len(data) - 1):
        path = written(tmp_path, data[:length])
        with pytest.raises(ValueError, match="is not a readable .npz file, or is cut") as caught:
            files.load_arrays(path)
        one_line(caught, path)


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path):
    data = bytearray(npz_bytes())
    data[data.index(ARRAYS["musX"].tobytes()) + 5] ^= 1
    path = written(tmp_path, bytes(data))
    with pytest.raises(ValueError, match="damaged .*CRC"):
        files.load_arrays(path)


def test_objects_in_an_npz_file_are_refused_and_not_unpickled(tmp_path):
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", a=np.array([Evil(marker)], dtype=object))
    with pytest.raises(ValueError, match="holds array 'a' of dtype object; only numbers") as caught:
        files.load_arrays(tmp_path / "a.npz")
    one_line(caught, tmp_path / "a.npz")
    assert not marker.exists()


@pytest.mark.parametrize("shape", [(1 << 40,), (3,), (-1,), (0, 5), (-2, -2)])
def test_a_header_that_does_not_fit_its_data_is_refused(tmp_path, shape):
    path = written(tmp_path, zip_bytes([("a.npy", npy_header(shape) + bytes(16))]))
    with pytest.raises(ValueError, match="cut off or damaged|16 bytes where its shape .* needs"):
        files.load_arrays(path)


def test_a_zip_bomb_is_refused(tmp_path):
    array = npy_bytes(np.zeros(1 << 20, dtype=np.uint8))
    data = bytearray(zip_bytes([("a.npy", array)], zipfile.ZIP_DEFLATED))
    at = data.rindex(struct.pack("<I", len(array)))  # as the directory at the end declares it
    data[at : at + 4] = struct.pack("<I", (1 << 32) - 2)
    path = written(tmp_path, bytes(data))
    with pytest.raises(ValueError, match=r"declares 4294967294 bytes of arrays in a file of"):
        files.load_arrays(path)


def test_the_limit_on_unpacked_bytes_leaves_the_best_compression_through(tmp_path):
    zeros = np.zeros(1 << 22, dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", a=zeros)
    assert_same(files.load_arrays(tmp_path / "a.npz")[0], {"a": zeros})


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, about just this
        data = zip_bytes([("a.npy", npy_bytes(np.zeros(2))), ("a.npy", npy_bytes(np.ones(2)))])
    with pytest.raises(ValueError, match="holds two arrays named 'a'"):
        files.load_arrays(written(tmp_path, data))


@pytest.mark.parametrize("name", ["a.txt", "../a.npy", "/a.npy", ".npy", "folder/", "a b.npy"])
def test_odd_names_are_refused(tmp_path, name):
    path = written(tmp_path, zip_bytes([(name, npy_bytes(np.zeros(2)))]))
    with pytest.raises(ValueError, match="holds an entry named .* which is not the name of"):
        files.load_arrays(path)


def test_an_unknown_version_of_npy_is_refused(tmp_path):
    data = bytearray(npy_bytes(np.zeros(2)))
    data[6] = 3
    path = written(tmp_path, zip_bytes([("a.npy", bytes(data))]))
    with pytest.raises(ValueError, match=r"holds array 'a' in .npy version \(3, 0\)"):
        files.load_arrays(path)


@pytest.mark.parametrize("meta", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_facts_that_are_no_json_object_are_refused(tmp_path, meta):
    path = written(tmp_path, npz_bytes(meta=meta))
    with pytest.raises(ValueError, match="holds an array 'meta' that is not a JSON object"):
        files.load_arrays(path)


@settings(max_examples=200)
@given(data=mutated([npz_bytes(meta=b"{}")]) | st.binary(max_size=60).map(b"PK\3\4".__add__))
def test_whatever_the_bytes_a_zip_file_is_read_or_a_value_error(scratch, data):
    loads_or_value_error(files.load_arrays, scratch, data)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device here")
def test_a_device_that_never_ends_is_refused():
    with pytest.raises(OSError, match="'/dev/zero': it is a device"):
        files.load_arrays("/dev/zero")
