"""Files of arrays: what is saved comes back, what is broken is refused in words, nothing runs."""

import copyreg
import errno
import io
import json
import math
import os
import pickle
import re
import stat
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, files, param_files

ARRAYS = {
    "pis": np.array([0.25, 0.75], dtype=np.float32),
    "musX": np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32),
    "A": np.arange(8, dtype=np.float64).reshape(2, 2, 2),
    "gamma_e": np.zeros((2, 1, 2), dtype=np.float32),
    "nu_e": np.array([0.5, 0.25], dtype=np.float32),
}
LOADERS = [files.load_arrays, param_files.load_tf_smoe_pickle, param_files.load_param_arrays]
OTHERS = {"mses": [np.float64(3.5), 2.0], "losses": (1, 2.5, None, True), "num_pis": [2, 2]}


def tf_smoe_bytes(protocol=4, params=ARRAYS):
    return pickle.dumps({"params": params, **OTHERS}, protocol=protocol)


def written(folder, data, name="file"):
    path = folder / name
    path.write_bytes(data)
    return path


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        assert found[name].dtype.byteorder in "=|", name  # "<" is equal, and yet shown as "<f4"
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def one_line(caught, path):
    """The message, which must be one line that names the path."""
    text = str(caught.value)
    assert "\n" not in text
    assert repr(str(path))[1:-1] in text
    return text


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


def npz_bytes(arrays=ARRAYS, meta=None):
    members = {name: np.asarray(array) for name, array in arrays.items()}
    if meta is not None:
        members["meta"] = np.frombuffer(meta, dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **members)
    return stream.getvalue()


def zip_bytes(entries, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(shape, descr="<f4"):
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


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
    with pytest.raises(ValueError, match="holds an entry named .* which is no name of an array"):
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


# ---- pickles of tf-smoe -------------------------------------------------------------------------


class Evil:
    """Unpickled by Python's own pickle, it makes a file of the given name."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def as_numpy_1(data):
    """A pickle as NumPy 1 wrote it, which called its modules numpy.core."""
    older = re.sub(
        rb"(.)numpy\._core\.(multiarray|numeric)",
        lambda found: (
            (found[1] if found[1] == b"c" else bytes([found[1][0] - 1]))  # a length, or GLOBAL
            + b"numpy.core."
            + found[2]
        ),
        data,
        flags=re.DOTALL,
    )
    if data[0:1] == b"\x80" and data[1] >= 4:  # one frame: its length stands at 3
        (length,) = struct.unpack("<Q", data[3:11])
        older = older[:3] + struct.pack("<Q", length - (len(data) - len(older))) + older[11:]
    return older


# {'params': {'pis': array([1, 2, 3], float32)}}, as Python 2 wrote it with NumPy 1.
PYTHON_2_PROTOCOL_2 = (
    b"\x80\x02}q\x00U\x06paramsq\x01}q\x02U\x03pisq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04"
    b"cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09(K\x01K\x03\x85q\x0a"
    b"cnumpy\ndtype\nq\x0bU\x02f4q\x0cK\x00K\x01\x87q\x0dRq\x0e(K\x03U\x01<q\x0fNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89"
    b"U\x0c\x00\x00\x80?\x00\x00\x00@\x00\x00@@q\x11tq\x12bss."
)
PYTHON_2_PROTOCOL_0 = (
    rb"""(dp0
S'params'
p1
(dp2
S'pis'
p3
cnumpy.core.multiarray
_reconstruct
p4
(cnumpy
ndarray
p5
(I0
tp6
S'b'
p7
tp8
Rp9
(I1
(L3L
tp10
cnumpy
dtype
p11
(S'f4'
p12
I0
I1
tp13
Rp14
(I3
S'<'
p15
NNNI-1
I-1
I0
tp16
bI00
S'\x00\x00\x80?\x00\x00\x00@\x00\x00@@'
p17
tp18
bss."""
)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_tf_smoe_file_of_any_protocol_is_read(tmp_path, protocol, older):
    data = tf_smoe_bytes(protocol)
    if older:
        data = as_numpy_1(data)
        assert b"numpy._core" not in data
    found = param_files.load_tf_smoe_pickle(written(tmp_path, data))
    assert_same(found, ARRAYS)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in found.values())


@pytest.mark.parametrize("data", [PYTHON_2_PROTOCOL_0, PYTHON_2_PROTOCOL_2])
def test_a_tf_smoe_file_of_python_2_is_read(tmp_path, data):
    found = param_files.load_tf_smoe_pickle(written(tmp_path, data))
    assert_same(found, {"pis": np.array([1, 2, 3], dtype=np.float32)})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(6, dtype=">f4"),
        np.arange(10, dtype=np.int16)[::2],
        np.zeros((0, 2)),
        np.array(3.0),
        np.float32(2.5),
        np.array([True, False]),
        np.arange(3, dtype=np.float16),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_an_array_of_any_layout_is_read_as_pickle_would(tmp_path, array, protocol):
    path = written(tmp_path, tf_smoe_bytes(protocol, {"A": array}))
    found = param_files.load_tf_smoe_pickle(path)["A"]
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, array)


def test_only_the_arrays_of_a_model_are_returned(tmp_path):
    params = {"pis": ARRAYS["pis"], "nu_e": None, "A": [1, 2], "other": ARRAYS["A"]}
    found = param_files.load_tf_smoe_pickle(written(tmp_path, tf_smoe_bytes(params=params)))
    assert_same(found, {"pis": ARRAYS["pis"]})


def string(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def global_opcode(module, name):
    return string(module) + string(name) + b"\x93"


def call(module, name, *arguments):
    return global_opcode(module, name) + b"(" + b"".join(arguments) + b"tR"


def evil_pickles(marker):
    """Name, pickle and what the refusal must mention; all of them would make a folder `marker`."""
    path, code = string(marker), string(f"__import__('os').mkdir({marker!r})")
    path_line, code_line = marker.encode(), f"__import__('os').mkdir({marker!r})".encode()
    shell = string(f"mkdir {marker}")
    proto = b"\x80\x04"
    lookup = call("operator", "attrgetter", string("mkdir"))
    return [
        ("os.mkdir", pickle.dumps(Evil(marker)), ".mkdir"),
        ("in params", tf_smoe_bytes(params={"pis": Evil(marker)}), ".mkdir"),
        ("object array", tf_smoe_bytes(params={"pis": np.array([Evil(marker)])}), "dtype 'O8'"),
        ("os.system", proto + call("os", "system", shell) + b".", "os.system"),
        ("posix.system", proto + call("posix", "system", shell) + b".", "posix.system"),
        ("eval", proto + call("builtins", "eval", code) + b".", "builtins.eval"),
        ("exec", proto + call("builtins", "exec", code) + b".", "builtins.exec"),
        ("Python 2 eval", b"c__builtin__\neval\n(S" + repr(code_line.decode()).encode() + b"\ntR.",
         "__builtin__.eval"),
        ("INST", b"(S'" + path_line + b"'\nios\nmkdir\n.", "opcode 'i'"),
        ("OBJ", b"(cos\nmkdir\nS'" + path_line + b"'\no.", "os.mkdir"),
        ("OBJ of an admitted one", b"(cnumpy\nndarray\n(I1\nto.", "opcode 'o'"),
        ("NEWOBJ", proto + global_opcode("numpy", "ndarray") + b"(K\x01t\x81.", r"opcode '\x81'"),
        ("NEWOBJ_EX", proto + global_opcode("numpy", "ndarray") + b")}\x92.", r"opcode '\x92'"),
        ("dotted name", proto + call("numpy", "testing.os.mkdir", path) + b".", "numpy.testing.os"),
        ("dotted dtype", proto + global_opcode("numpy", "ndarray.__setstate__") + b".",
         "numpy.ndarray.__setstate__"),
        ("f2py", proto + call("numpy.f2py.diagnose", "run_command", shell) + b".", "numpy.f2py"),
        ("runstring", proto + call("numpy.testing._private.utils", "runstring", code, b"}") + b".",
         "runstring"),
        ("numpy.load", proto + call("numpy", "load", path) + b".", "numpy.load"),
        ("getattr", proto + call("builtins", "getattr", b"N", string("x")) + b".", "getattr"),
        ("attrgetter", proto + lookup + b".", "operator.attrgetter"),
        ("__import__", proto + call("builtins", "__import__", string("os")) + b".", "__import__"),
        ("codecs other than latin1", proto + call("_codecs", "encode", code, string("hex")) + b".",
         "encodes something"),
        ("bytes of a number", proto + call("builtins", "bytes", b"J\xff\xff\xff\x7f") + b".",
         "TypeError"),
        ("_reconstruct of a class", proto + call(
            "numpy.core.multiarray", "_reconstruct", global_opcode("numpy", "dtype"),
            b"K\x00\x85", b"C\x01b") + b".", "array of an unknown kind"),
        ("_reconstruct of a shape", proto + call(
            "numpy.core.multiarray", "_reconstruct", global_opcode("numpy", "ndarray"),
            b"J\xff\xff\xff\x7f\x85", b"C\x01b") + b".", "array of an unknown kind"),
        ("ndarray called", proto + call("numpy", "ndarray", b"J\xff\xff\xff\x7f") + b".",
         "calls something"),
        ("BUILD on a function", proto + global_opcode("_codecs", "encode")
         + b"}" + string("call") + b"Nsb.", "sets the state"),
        ("BUILD on its slots", proto + global_opcode("_codecs", "encode")
         + b"N}" + string("__defaults__") + b")s\x86b.", "sets the state"),
        ("calling a list", proto + b"])R.", "calls something"),
        ("persistent id", b"Pid\n.", "opcode 'P'"),
        ("binary persistent id", proto + path + b"Q.", "opcode 'Q'"),
        ("extension code", b"\x80\x02\x82\xf0.", r"opcode '\x82'"),
        ("a set", proto + b"\x8f(K\x01\x90.", r"opcode '\x8f'"),
        ("out-of-band buffer", b"\x80\x05\x97.", r"opcode '\x97'"),
    ]  # fmt: skip


EVIL_NAMES = [name for name, _, _ in evil_pickles("marker")]


@pytest.mark.parametrize("load", [param_files.load_tf_smoe_pickle, param_files.load_param_arrays])
@pytest.mark.parametrize("name", EVIL_NAMES)
def test_pickle_code_is_refused_by_name_and_never_run(tmp_path, monkeypatch, load, name):
    marker = tmp_path / "marker"
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "mkdir"))
    data, mention = next(entry[1:] for entry in evil_pickles(str(marker)) if entry[0] == name)
    path = written(tmp_path, data)
    with pytest.raises(ValueError, match=re.escape(mention)) as caught:
        load(path)
    one_line(caught, path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.mkdir", "in params", "object array", "eval", "exec", "INST"])
def test_the_evil_pickles_are_evil(tmp_path, name):
    marker = tmp_path / "marker"
    data = next(entry[1] for entry in evil_pickles(str(marker)) if entry[0] == name)
    pickle.loads(data)
    assert marker.exists()


def test_a_long_or_many_lined_name_of_a_global_does_not_spoil_the_message(tmp_path):
    data = b"\x80\x04" + string("os\n" * 80) + string("mkdir\n") + b"\x93."
    with pytest.raises(ValueError, match="asks for the global") as caught:
        param_files.load_tf_smoe_pickle(written(tmp_path, data))
    assert len(one_line(caught, tmp_path)) < 400


def array_pickle(shape, data, dtype="f4", fields=b"NN"):
    """{'params': {'pis': an array of these opcodes}}."""
    state = b"(K\x03\x8c\x01<N" + fields + b"JKKKKJKKKKK\x00tb"
    array = (
        call("numpy.core.multiarray", "_reconstruct", global_opcode("numpy", "ndarray"),
             b"K\x00\x85", b"C\x01b")
        + b"(K\x01" + shape + call("numpy", "dtype", string(dtype), b"\x89", b"\x88") + state
        + b"\x89" + data + b"tb"
    )  # fmt: skip
    return b"\x80\x04}" + string("params") + b"}" + string("pis") + array + b"ss."


TUPLES = b")" + b"2\x86" * 1000  # a pair of twice the same pair of twice the same ...
LONG = b"\x8a\x08" + struct.pack("<q", 1 << 62)


@pytest.mark.parametrize(
    ("opcodes", "mention"),
    [
        (array_pickle(LONG + b"\x85", b"C\x04abcd"), "4 bytes, which does not fit its shape"),
        (array_pickle(LONG * 3 + b"\x87", b"C\x04abcd"), "does not fit its shape"),
        (array_pickle(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"C\x04abcd"), "proper shape"),
        (array_pickle(b"\x88\x85", b"C\x04abcd"), "without a proper shape"),
        (array_pickle(b"K\x01", b"C\x04abcd"), "without a proper shape"),
        (array_pickle(b"(" + b"K\x01" * 9 + b"t", b"C\x04abcd"), "without a proper shape"),
        (array_pickle(b"K\x01\x85", b"](Ne"), "array of objects"),
        (array_pickle(b"K\x01\x85", b"C\x08abcdabcd", "O8"), "of dtype 'O8'"),
        (array_pickle(b"K\x01\x85", b"C\x08abcdabcd", "V8"), "of dtype 'V8'"),
        (array_pickle(b"K\x01\x85", b"C\x08abcdabcd", "f4,f4"), "of dtype 'f4,f4'"),
        (array_pickle(b"K\x01\x85", b"C\x04abcd", fields=b"\x8c\x01x\x85}"), "array of records"),
        (b"\x80\x04}}}s.", "keys are not plain"),
        (b"\x80\x04})" + b"\x85" * 100_000 + b"Ns.", "keys are not plain"),
        (b"\x80\x04}" + TUPLES + b"Ns.", "keys are not plain"),
        (b"\x80\x04}(" + TUPLES + b"Nu.", "keys are not plain"),
        (b"\x80\x04(" + TUPLES + b"Nd.", "keys are not plain"),
        (b"\x80\x04](K\x00Nu.", "keys are not plain"),
        (b"\x80\x04" + b"]" * 3 + b"a" * 2 + b".", "no dict 'params'"),
        (b"\x80\x04}.", "no dict 'params'"),
        (b"\x80\x04}" + string("params") + b"Ns.", "no dict 'params'"),
    ],
)
def test_what_is_no_numeric_array_is_refused_in_words(tmp_path, opcodes, mention):
    path = written(tmp_path, opcodes)
    with pytest.raises(ValueError, match=re.escape(mention)) as caught:
        param_files.load_tf_smoe_pickle(path)
    one_line(caught, path)


def bombs():
    gigabytes = struct.pack("<Q", 1 << 34)
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    again = b"h\x01h\x00" + string("latin1") + b"\x86R"  # encode the same text once more
    encoder = b"\x80\x04" + text + b"q\x00" + global_opcode("_codecs", "encode") + b"q\x01"
    return {
        "bytes": b"\x80\x04\x8e" + gigabytes + b"abc.",
        "text": b"\x80\x04\x8d" + gigabytes + b"abc.",
        "bytearray": b"\x80\x05\x96" + gigabytes + b"abc.",
        "frame": b"\x80\x04\x95" + gigabytes + b"}.",
        "memo": b"\x80\x04}r\xff\xff\xff\x7f.",
        "the same bytes again and again": encoder + again * 200 + b".",
    }


@pytest.mark.parametrize("name", bombs())
def test_a_declared_size_is_not_believed(tmp_path, name):
    data = bombs()[name]
    path = written(tmp_path, data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="no dict|cut off|more bytes than it holds"):
            param_files.load_tf_smoe_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data) + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"garbage", b"\x80", b"\x80\xffabc", b"{'params': 1}", b"\0" * 9])
def test_garbage_is_refused_in_words(tmp_path, data):
    path = written(tmp_path, data)
    with pytest.raises(ValueError, match="readable pickle of tf-smoe|holds pickle opc") as caught:
        param_files.load_param_arrays(path)
    one_line(caught, path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_truncated_pickle_is_refused_in_words(tmp_path, protocol):
    data = tf_smoe_bytes(protocol)
    for length in range(1, len(data), 7):
        path = written(tmp_path, data[:length])
        # Where a line is cut within a global's name, that name is unknown.
        with pytest.raises(ValueError, match="cut off or damaged|asks for the global") as caught:
            param_files.load_tf_smoe_pickle(path)
        one_line(caught, path)


@st.composite
def mutated(draw, originals):
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(min_size=0, max_size=3))
    return bytes(data)


PICKLES = [tf_smoe_bytes(protocol) for protocol in range(6)] + [PYTHON_2_PROTOCOL_0]
PICKLES += [data for _, data, _ in evil_pickles("/nonexistent/marker")]


def loads_or_value_error(load, path, data):
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's about odd headers
        try:
            arrays = load(path)
        except ValueError as error:
            message = str(error)
        else:
            message = str(path)
            arrays = arrays[0] if isinstance(arrays, tuple) else arrays
            assert all(array.dtype.kind in "biufc" for array in arrays.values())
    assert str(path) in message
    assert "\n" not in message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("mutants") / "file"


@settings(max_examples=400)
@given(data=mutated(PICKLES) | st.binary(max_size=60))
def test_whatever_the_bytes_a_pickle_is_read_or_a_value_error(scratch, data):
    loads_or_value_error(param_files.load_tf_smoe_pickle, scratch, data)


@settings(max_examples=200)
@given(data=mutated([npz_bytes(meta=b"{}")]) | st.binary(max_size=60).map(b"PK\3\4".__add__))
def test_whatever_the_bytes_a_zip_file_is_read_or_a_value_error(scratch, data):
    loads_or_value_error(files.load_arrays, scratch, data)


# ---- load_param_arrays --------------------------------------------------------------------------


def test_the_contents_decide_how_a_file_is_read_not_its_name(tmp_path):
    pickled = written(tmp_path, tf_smoe_bytes(), "a.npz")
    assert_same(param_files.load_param_arrays(pickled)[0], ARRAYS)
    files.save_arrays(tmp_path / "b.pkl", {**ARRAYS, "more": np.zeros(1)}, {"k": 1})
    found, meta = param_files.load_param_arrays(tmp_path / "b.pkl")
    assert_same(found, ARRAYS)
    assert meta == {"k": 1}


def test_pictures_and_checkpoints_are_called_so(tmp_path):
    path = tmp_path / "file"
    for begin in (b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"BM1234", b"GIF89a"):
        path.write_bytes(begin + bytes(99))
        with pytest.raises(ValueError, match="file' is a picture, not a model; smoe fit makes one"):
            param_files.load_param_arrays(path)
    path = tmp_path / "run.npz"
    Smoe(np.eye(8), 2).save_checkpoint(path)
    with pytest.raises(ValueError, match="run.npz' is a checkpoint, not a model; go on with it"):
        param_files.load_param_arrays(path)


@pytest.mark.parametrize("as_pickle", [False, True])
def test_missing_arrays_are_named(tmp_path, as_pickle):
    some = {name: ARRAYS[name] for name in ("pis", "musX", "nu_e")}
    path = written(tmp_path, tf_smoe_bytes(params=some) if as_pickle else npz_bytes(some))
    with pytest.raises(ValueError, match="has no array A, gamma_e; a model needs") as caught:
        param_files.load_param_arrays(path)
    one_line(caught, path)


def test_no_function_of_the_reader_is_changed_by_a_pickle(tmp_path):
    for name, data, _ in evil_pickles(str(tmp_path / "marker")):
        with pytest.raises(ValueError):
            param_files.load_tf_smoe_pickle(written(tmp_path, data))
        path = written(tmp_path, tf_smoe_bytes(2))
        assert_same(param_files.load_tf_smoe_pickle(path), ARRAYS), name


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device here")
def test_a_device_that_never_ends_is_refused():
    with pytest.raises(OSError, match="'/dev/zero': it is a device"):
        files.load_arrays("/dev/zero")
