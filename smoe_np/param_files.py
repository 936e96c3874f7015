"""Parameter files: .npz, packed files, and pickles of tf-smoe, which are read without running code.
"""

import io
import math
import pickle

import numpy as np

from .files import (
    NUMPY_START,
    PARAM_NAMES,
    Refused,
    briefly,
    load_arrays,
    open_to_read,
    owned,
    path_text,
)
from .packed import MAGIC, load_packed

# Globals in pickles of old and new NumPy, from Python 2 and 3. The values name the methods of
# _ArrayUnpickler that replace them; NumPy's own functions are never called.
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): "_begin_array",
    ("numpy._core.multiarray", "_reconstruct"): "_begin_array",
    ("numpy.core.multiarray", "scalar"): "_scalar",
    ("numpy._core.multiarray", "scalar"): "_scalar",
    ("numpy.core.numeric", "_frombuffer"): "_array_from_buffer",
    ("numpy._core.numeric", "_frombuffer"): "_array_from_buffer",
    ("numpy", "dtype"): "_dtype",
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
    ("_codecs", "encode"): "_encode",
    ("__builtin__", "bytes"): "_no_bytes",
    ("builtins", "bytes"): "_no_bytes",
}

# Only opcodes that build dicts, lists, tuples, text and numbers, and that call admitted globals.
# Excluded are classes (NEWOBJ, OBJ, INST), extension codes, persistent ids, sets and out-of-band
# buffers.
_OPCODES = """
    APPEND APPENDS BINBYTES BINBYTES8 BINFLOAT BINGET BININT BININT1 BININT2 BINPUT BINSTRING
    BINUNICODE BINUNICODE8 BUILD BYTEARRAY8 DICT DUP EMPTY_DICT EMPTY_LIST EMPTY_TUPLE FLOAT FRAME
    GET GLOBAL INT LIST LONG LONG1 LONG4 LONG_BINGET LONG_BINPUT MARK MEMOIZE NEWFALSE NEWTRUE NONE
    POP POP_MARK PROTO PUT REDUCE SETITEM SETITEMS SHORT_BINBYTES SHORT_BINSTRING SHORT_BINUNICODE
    STACK_GLOBAL STOP STRING TUPLE TUPLE1 TUPLE2 TUPLE3 UNICODE
"""

_DTYPE_NAMES = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
PICTURES = b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF8"  # their first bytes
_KEY_TYPES = (str, bytes, int, float, bool, type(None))
_MAX_AXES = 8


class _Dispatch(dict):
    """Methods by opcode; opcodes that are not admitted are refused."""

    def __missing__(self, code):
        raise Refused(f"holds pickle opcode {chr(code)!r}, which no file of arrays needs; "
                       f"give an .npz file or a parameter file of tf-smoe")


class _Global:
    """Stand-in for an admitted global, with nothing that a pickle could change."""

    __slots__ = ("name", "call")

    def __init__(self, name, call):
        self.name, self.call = name, call


class _PendingDtype:
    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = dtype


class _PendingArray:
    __slots__ = ("array",)

    def __init__(self, array=None):
        self.array = array


class _ArrayUnpickler(pickle._Unpickler):
    """Rebuilds dicts, lists and numeric arrays from a pickle, and refuses the rest.

    It extends the unpickler written in Python, because the one in C, pickle.Unpickler, allocates
    whatever size a file declares (a few bytes are enough for 32 GiB), and cannot be restricted to
    some opcodes. Arrays are few opcodes and many bytes, so the speed is the same.
    """

    dispatch = _Dispatch(
        (getattr(pickle, name)[0], pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
        for name in _OPCODES.split()
    )

    def __init__(self, data):
        super().__init__(io.BytesIO(data), encoding="latin1")  # keeps the bytes of Python 2
        self._bytes_left = len(data)

    def find_class(self, module, name):
        if (module, name) not in _ADMITTED:
            raise Refused(
                f"asks for the global {f'{module}.{name}'[:80]!r}, which is not part of an array, "
                "and pickle code is never run"
            )
        method = _ADMITTED[module, name]
        return _Global(f"{module}.{name}", getattr(self, method) if method else None)

    # Opcodes whose usual methods would call, hash, allocate or set attributes as the file demands.

    def load_reduce(self):
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Global or not function.call or type(arguments) is not tuple:
            raise Refused("calls something that does not make an array")
        self.stack[-1] = function.call(*arguments)

    def load_build(self):
        state = self.stack.pop()
        if type(self.stack[-1]) is _PendingDtype:
            self._set_byte_order(self.stack[-1], *state)
        elif type(self.stack[-1]) is _PendingArray:
            self._fill_array(self.stack[-1], *state)
        else:
            raise Refused("sets the state of something that is not an array")

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def load_setitems(self):
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    def load_dict(self):
        items = self.pop_mark()
        self.append({})
        self._set_items(self.stack[-1], items)

    def load_bytearray8(self):
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def _set_items(self, target, items):
        # Hashing deeply nested tuples can take for ever, or overflow the C stack.
        if type(target) is not dict or any(type(key) not in _KEY_TYPES for key in items[::2]):
            raise Refused("holds a dict whose keys are not plain")
        target.update(zip(items[::2], items[1::2]))

    # Replacements for the admitted globals.

    def _begin_array(self, subtype, shape, typecode):
        if type(subtype) is not _Global or subtype.name != "numpy.ndarray" or shape != (0,):
            raise Refused("builds an array of an unknown kind")
        return _PendingArray()

    def _fill_array(self, pending, version, shape, dtype, column_major, data):
        pending.array = self._array(shape, dtype, data, "F" if column_major is True else "C")

    def _array_from_buffer(self, data, dtype, shape, order, axis_order=None):
        array = self._array(shape, dtype, data, "F" if order == "F" else "C")
        if order == "K" and axis_order is not None:
            array = array.transpose(axis_order)
        return _PendingArray(array)

    def _scalar(self, dtype, data):
        return _PendingArray(self._array((), dtype, data, "C"))

    def _dtype(self, name, align=False, copy=True):
        if type(name) is not str or name not in _DTYPE_NAMES:
            shown = name[:20] if type(name) is str else type(name).__name__
            raise Refused(f"holds an array of dtype {shown!r}; only real numbers are read")
        return _PendingDtype(np.dtype(name))

    def _set_byte_order(self, pending, version, order, subdtype, names, fields, *sizes):
        if (subdtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise Refused("holds an array of records; only plain arrays are read")
        pending.dtype = pending.dtype.newbyteorder(order)

    def _encode(self, text, encoding):
        # Protocols 0 to 2 write bytes as encoded text.
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise Refused("encodes something that is not bytes")
        # The same text, encoded over and over, could fill the memory; no regular file does that.
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise Refused("declares more bytes than it holds")
        return text.encode("latin-1")

    def _no_bytes(self):
        return b""

    def _array(self, shape, dtype, data, order):
        if type(dtype) is not _PendingDtype:
            raise Refused("holds an array without a dtype")
        if type(shape) is not tuple or len(shape) > _MAX_AXES:
            raise Refused("holds an array without a proper shape")
        if any(type(size) is not int or not 0 <= size < 1 << 63 for size in shape):
            raise Refused("holds an array without a proper shape")
        if type(data) is str:  # the bytes of Python 2
            data = self._encode(data, "latin1")
        if type(data) is not bytes:
            raise Refused("holds an array of objects; only real numbers are read")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise Refused(f"holds an array of {len(data)} bytes, which does not fit its shape")
        return np.ndarray(shape, dtype.dtype, data, order=order)


def load_tf_smoe_pickle(path):
    """Load the arrays of a parameter file of tf-smoe, without running any pickle code.

    Such a file is the pickle of a dict whose entry ``params`` is a dict of arrays. Files from any
    version of Python (2 or 3) and NumPy can be read.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    arrays : dict of str to ndarray
        The arrays of `PARAM_NAMES` that the file has, C-contiguous and writable, with the shapes
        and the precision of the file.

    Raises
    ------
    ValueError
        If the file is empty, truncated, damaged or not such a pickle, or contains anything but
        numeric arrays; the message names the path and what was refused.
    OSError
        If the file cannot be opened; see `open_to_read`.
    """
    text = path_text(path)
    with open_to_read(path) as stream:
        data = stream.read()
    try:
        if not data:
            raise Refused("is empty; save it again")
        if data.startswith(NUMPY_START):
            raise Refused("is an array of NumPy, not a model; give a file that smoe_np or tf-smoe "
                          "has written")
        content = _ArrayUnpickler(data).load()
        params = content.get("params") if type(content) is dict else None
        if type(params) is not dict:
            raise Refused("is not a parameter file of tf-smoe: it has no dict 'params'")
        return {
            name: owned(params[name].array)
            for name in PARAM_NAMES
            if type(params.get(name)) is _PendingArray
        }
    except Refused as refusal:
        raise ValueError(f"{text!r} {refusal}") from None
    except Exception as error:  # bytes that are not a pickle raise errors of any kind
        raise ValueError(
            f"{text!r} is neither a model of smoe_np nor a readable pickle of tf-smoe, or is cut "
            f"off or damaged ({briefly(error)}); save or copy it again"
        ) from error


def load_param_arrays(path):
    """Load the parameters of a model from a .npz file, a packed file, or a pickle of tf-smoe.

    The kind of file is decided by its first bytes, not by its name. From a checkpoint, the current
    model at that time is loaded.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    arrays : dict of str to ndarray
        ``pis``, ``musX``, ``A``, ``gamma_e`` and ``nu_e``, as stored; other arrays are ignored.
    meta : dict
        Facts about the model, such as ``image_shape``; empty for a pickle.

    Raises
    ------
    ValueError
        If the file is not a model or lacks an array; see `load_arrays`, `load_packed` and
        `load_tf_smoe_pickle`.
    OSError
        If the file cannot be opened; see `open_to_read`.
    """
    with open_to_read(path) as stream:
        begin = stream.read(len(MAGIC))
    if begin == MAGIC:
        return load_packed(path)
    if begin.startswith(PICTURES):
        raise ValueError(f"{path_text(path)!r} is a picture, not a model; fit a model to it with "
                         f"smoe fit")
    arrays, meta = (load_arrays(path, _check_shapes) if begin[:2] == b"PK" else
                    (load_tf_smoe_pickle(path), {}))
    if "params_pis" in arrays:  # a checkpoint
        arrays = {name: arrays[f"params_{name}"] for name in PARAM_NAMES
                  if f"params_{name}" in arrays}
        meta = {"image_shape": meta.get("shape")}
    missing = [name for name in PARAM_NAMES if name not in arrays]
    if missing:
        raise ValueError(
            f"{path_text(path)!r} has no array {', '.join(missing)}; "
            f"a model needs {', '.join(PARAM_NAMES)}"
        )
    return {name: arrays[name] for name in PARAM_NAMES}, meta


def _check_shapes(shapes):
    """Refuse arrays of a model with different numbers of kernels, before large ones are unpacked.
    """
    shapes = {name.removeprefix("params_"): shape for name, shape in shapes.items()}
    kernels = {shapes[name][:1] for name in PARAM_NAMES if name in shapes}
    if len(kernels) > 1:
        told = ", ".join(f"{name} {shapes[name]}" for name in PARAM_NAMES if name in shapes)
        raise Refused(f"holds arrays of different numbers of kernels: {told}; save it again")
