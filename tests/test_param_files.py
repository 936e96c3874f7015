"""Files of models, those of tf-smoe among them: no code in them is ever run."""

import copyreg
import pickle
import re
import struct
import tracemalloc

import numpy as np
import pytest
from broken_files import (
    ARRAYS,
    Evil,
    assert_same,
    loads_or_value_error,
    mutated,
    npz_bytes,
    one_line,
    tf_smoe_bytes,
    written,
)
from helpers import assert_same_model
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import Smoe, files, load_params, param_files

# ---- pickles of tf-smoe -------------------------------------------------------------------------


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


PICKLES = [tf_smoe_bytes(protocol) for protocol in range(6)] + [PYTHON_2_PROTOCOL_0]
PICKLES += [data for _, data, _ in evil_pickles("/nonexistent/marker")]


@settings(max_examples=400)
@given(data=mutated(PICKLES) | st.binary(max_size=60))
def test_whatever_the_bytes_a_pickle_is_read_or_a_value_error(scratch, data):
    loads_or_value_error(param_files.load_tf_smoe_pickle, scratch, data)


# ---- load_param_arrays --------------------------------------------------------------------------


def test_the_contents_decide_how_a_file_is_read_not_its_name(tmp_path):
    pickled = written(tmp_path, tf_smoe_bytes(), "a.npz")
    assert_same(param_files.load_param_arrays(pickled)[0], ARRAYS)
    files.save_arrays(tmp_path / "b.pkl", {**ARRAYS, "more": np.zeros(1)}, {"k": 1})
    found, meta = param_files.load_param_arrays(tmp_path / "b.pkl")
    assert_same(found, ARRAYS)
    assert meta == {"k": 1}


def test_pictures_are_called_so(tmp_path):
    path = tmp_path / "file"
    for begin in (b"\x89PNG\r\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"BM1234", b"GIF89a"):
        path.write_bytes(begin + bytes(99))
        with pytest.raises(ValueError, match="file' is a picture, not a model; fit a model"):
            param_files.load_param_arrays(path)


def test_of_a_checkpoint_it_is_the_model_as_its_training_had_it(tmp_path):
    smoe = Smoe(np.eye(8), 2).train(3, val_iter=2)
    smoe.save_checkpoint(tmp_path / "run.npz")
    params = load_params(tmp_path / "run.npz")
    assert_same_model(params, smoe.params)
    assert params.image_shape == (8, 8)
    arrays, meta = files.load_arrays(tmp_path / "run.npz")
    few = arrays["params_nu_e"][:2]
    for forged, why in (({"params_nu_e": few}, "different numbers of kernels"),
                        ({"params_A": None}, "has no array A")):
        kept = {name: a for name, a in {**arrays, **forged}.items() if a is not None}
        files.save_arrays(tmp_path / "forged.npz", kept, meta)
        with pytest.raises(ValueError, match=why):
            load_params(tmp_path / "forged.npz")
    files.save_arrays(tmp_path / "forged.npz", arrays, {**meta, "shape": [8, 8, 8]})
    with pytest.raises(ValueError, match="forged.npz': image_shape must be 2 sizes"):
        load_params(tmp_path / "forged.npz")


@pytest.mark.parametrize("as_pickle", [False, True])
def test_missing_arrays_are_named(tmp_path, as_pickle):
    some = {name: ARRAYS[name] for name in ("pis", "musX", "nu_e")}
    path = written(tmp_path, tf_smoe_bytes(params=some) if as_pickle else npz_bytes(some))
    with pytest.raises(ValueError, match="has no array A, gamma_e; a model needs") as caught:
        param_files.load_param_arrays(path)
    one_line(caught, path)


def test_arrays_of_other_numbers_of_kernels_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "vast.npz"
    np.savez_compressed(path, **{**ARRAYS, "pis": np.zeros(1 << 23, np.float32)})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"different numbers of kernels: pis \(8388608,\), "
                                             r"musX \(2, 2\)") as caught:
            param_files.load_param_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    one_line(caught, path)


def test_no_function_of_the_reader_is_changed_by_a_pickle(tmp_path):
    for name, data, _ in evil_pickles(str(tmp_path / "marker")):
        with pytest.raises(ValueError):
            param_files.load_tf_smoe_pickle(written(tmp_path, data))
        path = written(tmp_path, tf_smoe_bytes(2))
        assert_same(param_files.load_tf_smoe_pickle(path), ARRAYS), name
