"""Reading and writing of files of arrays: atomic writes, .npz archives, tf-smoe's pickles.

A file that is read here may come from anywhere. Nothing in it is ever executed, no size that it
declares is believed before it was compared with the bytes that are really there, and whatever is
wrong with it comes out as one line that names the path.
"""

import contextlib
import errno
import io
import json
import math
import os
import pickle
import re
import stat

import numpy as np

PARAM_NAMES = ("pis", "musX", "A", "gamma_e", "nu_e")

_NUMERIC_KINDS = "biufc"  # dtype.kind of bool, integers, floats and complex numbers
_MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_UNPACKED_BYTES = 64 << 30
_MAX_EXPANSION = 1100  # deflate cannot do better than 1032 : 1


class _Refused(Exception):
    """What is wrong with a file, worded to follow its name."""


# ---- the file system ----------------------------------------------------------------------------

_TROUBLE_READING = {
    errno.ENOENT: "there is no such file; check the path",
    errno.EISDIR: "it is a folder; give the path of a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EACCES: "permission denied; change the file's permissions or use a copy of your own",
    errno.EINVAL: "it is a device or the like, not a file; give the path of a file",
}
_TROUBLE_WRITING = {
    errno.ENOENT: "its folder does not exist; create the folder first",
    errno.EISDIR: "it is a folder; give the path of a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder; check the path",
    errno.EACCES: "permission denied; write to another folder or change the permissions",
    errno.EROFS: "the file system is read-only; write to another folder",
    errno.ENOSPC: "no space left on the device; free some space or write elsewhere",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EINVAL: "it is a device or the like, not a file; give the path of a file",
}
_TROUBLE_WRITING[errno.EPERM] = _TROUBLE_WRITING[errno.EACCES]
if hasattr(errno, "EDQUOT"):  # not on Windows
    _TROUBLE_WRITING[errno.EDQUOT] = "the disk quota is used up; free some space or write elsewhere"


def path_text(path):
    """The path as a str, for messages; TypeError or ValueError where it cannot be a path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path is of type {type(path).__name__}; give a str or an os.PathLike")
    text = os.fsdecode(path)
    if "\0" in text:
        raise ValueError(f"path {text!r} holds a null character; give a valid path")
    return text


def _in_words(error, verb, text):
    trouble = _TROUBLE_READING if verb == "read" else _TROUBLE_WRITING
    number = error.errno or errno.EIO
    reason = trouble.get(number, f"{os.strerror(number).lower()}; check the disk and the path")
    return OSError(number, f"cannot {verb} {text!r}: {reason}")


def open_to_read(path):
    """Open a file for reading, with errors in words.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    stream : binary file object

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, OSError
        One line that names the path and says what to do (also alone, as ``strerror``).
    """
    text = path_text(path)
    try:
        if os.path.isdir(text):  # Windows would call this a lack of permission
            raise IsADirectoryError(errno.EISDIR, "")
        if os.path.exists(text) and not os.path.isfile(text):  # it may never end
            raise OSError(errno.EINVAL, "")
        return open(text, "rb")
    except OSError as error:
        raise _in_words(error, "read", text) from error


@contextlib.contextmanager
def atomic_write(path):
    """Write a file completely or not at all.

    Yields a binary file object on a temporary name in the same folder. When the body ends, the file
    is flushed to the disk and takes the place of `path` in one step; when the body raises, it is
    removed and an older `path` stays as it was. A symbolic link stays one: what it points to is
    replaced. A new file gets the usual permissions, a replaced one keeps its own.

    Parameters
    ----------
    path : str or os.PathLike

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, OSError
        Of the same ``errno`` as the failure (``ENOSPC``: the disk is full), one line that names the
        path and says what to do (also alone, as ``strerror``).
    """
    text = path_text(path)
    target = os.path.realpath(text)
    folder, name = os.path.split(target)
    # The name is cut so that the temporary one is not too long where `name` itself is not.
    temporary = os.path.join(folder, f".{name[:40]}.{os.urandom(4).hex()}.tmp")
    try:
        permissions = _permissions_to_keep(text, target)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)  # 0o666 less the user's umask
        try:
            with open(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            if permissions is not None:
                os.chmod(temporary, permissions)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        if error.errno and error.filename in (None, temporary, target):
            raise _in_words(error, "write", text) from error
        raise  # trouble of the body's own, with another file


def _permissions_to_keep(text, target):
    """Mode bits of the file about to be replaced, None where there is none.

    os.replace would happily put a file in the place of a device (/dev/null), or of a file that its
    owner has write-protected, so both are refused here.
    """
    if os.path.isdir(target) or text.endswith(("/", os.sep)):
        raise IsADirectoryError(errno.EISDIR, "")
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "")
    return stat.S_IMODE(mode)


def _briefly(error):
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line[:120]}"


# ---- .npz ---------------------------------------------------------------------------------------


def save_arrays(path, arrays, meta=None):
    """Save named arrays, and a few facts about them, in one uncompressed .npz file.

    The file is written atomically, under exactly the name given. The same contents always give the
    same bytes.

    Parameters
    ----------
    path : str or os.PathLike
    arrays : dict of str to array_like
        Numbers or booleans of any shape. Names consist of letters, digits, ``_``, ``.`` and ``-``.
    meta : dict, optional
        Whatever JSON can hold; kept as a uint8 array named ``meta``.

    Raises
    ------
    TypeError
        If an array does not hold numbers, or `meta` is not a dict that JSON can hold.
    ValueError
        If a name is not allowed.
    OSError
        If the file cannot be written; see `atomic_write`.
    """
    import zipfile

    members = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or not _MEMBER_NAME.fullmatch(name) or name == "meta":
            raise ValueError(
                f"arrays has an entry named {name!r}; use letters, digits, '_', '.' and '-', "
                "and not 'meta'"
            )
        members[name] = np.asarray(array)
        if members[name].dtype.kind not in _NUMERIC_KINDS:
            raise TypeError(
                f"arrays[{name!r}] has dtype {members[name].dtype}; give an array of numbers"
            )
    members["meta"] = _meta_as_bytes({} if meta is None else meta)
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, array in members.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _meta_as_bytes(meta):
    if not isinstance(meta, dict):
        raise TypeError(f"meta is of type {type(meta).__name__}; give a dict")
    try:
        text = json.dumps(meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"meta cannot be written as JSON ({error}); give plain values") from error
    return np.frombuffer(text.encode(), dtype=np.uint8)


def load_arrays(path):
    """Load what `save_arrays` saved, or any .npz file of numeric arrays.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    arrays : dict of str to ndarray
        Each C-contiguous, writable, in the machine's byte order.
    meta : dict
        Empty where the file has none.

    Raises
    ------
    ValueError
        If the file is empty, cut off, damaged or no .npz file, if it holds objects, if it declares
        more data than it can hold, or if its names are odd; the message names the path.
    OSError
        If the file cannot be opened; see `open_to_read`.
    """
    import zipfile

    text = path_text(path)
    with open_to_read(path) as stream:
        packed_bytes = os.fstat(stream.fileno()).st_size
        try:
            if packed_bytes == 0:
                raise _Refused("is empty; save it again")
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                names = _member_names(members)
                _check_expansion(sum(member.file_size for member in members), packed_bytes)
                arrays = {
                    name: _read_member(archive, member, name)
                    for name, member in zip(names, members)
                }
            return arrays, _meta_from_bytes(arrays.pop("meta", None))
        except _Refused as refusal:
            raise ValueError(f"{text!r} {refusal}") from None
        except Exception as error:  # zipfile has a dozen ways to say so
            raise ValueError(
                f"{text!r} is not a readable .npz file, or is cut off or damaged "
                f"({_briefly(error)}); save or copy it again"
            ) from error


def _member_names(members):
    names = []
    for member in members:
        name, dot, ending = member.filename.rpartition(".")
        if ending != "npy" or not _MEMBER_NAME.fullmatch(name):
            raise _Refused(
                f"holds an entry named {member.filename[:80]!r}, which is no name of an array; "
                "give a .npz file of arrays"
            )
        if name in names:
            raise _Refused(f"holds two arrays named {name!r}; save it again")
        names.append(name)
    return names


def _check_expansion(unpacked_bytes, packed_bytes):
    if unpacked_bytes > min(_MAX_UNPACKED_BYTES, _MAX_EXPANSION * packed_bytes):
        raise _Refused(
            f"declares {unpacked_bytes} bytes of arrays in a file of {packed_bytes} bytes; "
            "such a file is not read"
        )


def _read_member(archive, member, name):
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(stream)
        else:
            raise _Refused(f"holds array {name!r} in .npy version {version}; only 1 and 2 are read")
        shape, column_major, dtype = header
        if dtype.kind not in _NUMERIC_KINDS:
            raise _Refused(f"holds array {name!r} of dtype {dtype}; only numbers are read")
        declared, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if declared != held:
            raise _Refused(
                f"holds array {name!r} of {held} bytes where its shape {shape} needs {declared}; "
                "save or copy it again"
            )
        data = stream.read(declared)  # to the very end, where zipfile checks the checksum
    array = np.ndarray(shape, dtype, data, order="F" if column_major else "C")
    return _owned(array)


def _owned(array):
    """A copy that is C-contiguous, writable and in the machine's byte order."""
    owned = np.empty(array.shape, dtype=array.dtype.type)
    owned[...] = array
    return owned


def _meta_from_bytes(array):
    if array is None:
        return {}
    try:
        meta = json.loads(array.tobytes().decode()) if array.dtype == np.uint8 else None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise _Refused("holds an array 'meta' that is not a JSON object; save it again")
    return meta


# ---- pickles of tf-smoe -------------------------------------------------------------------------

# Old and new NumPy, under the names that Python 2 and 3 wrote down. The values name the methods of
# _ArrayUnpickler that answer for them; NumPy's own functions are never handed out.
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

# Only what builds dicts, lists, tuples, text and numbers, and calls what is admitted. Left out are
# classes (NEWOBJ, OBJ, INST), extension codes, persistent ids, sets and buffers kept elsewhere.
_OPCODES = """
    APPEND APPENDS BINBYTES BINBYTES8 BINFLOAT BINGET BININT BININT1 BININT2 BINPUT BINSTRING
    BINUNICODE BINUNICODE8 BUILD BYTEARRAY8 DICT DUP EMPTY_DICT EMPTY_LIST EMPTY_TUPLE FLOAT FRAME
    GET GLOBAL INT LIST LONG LONG1 LONG4 LONG_BINGET LONG_BINPUT MARK MEMOIZE NEWFALSE NEWTRUE NONE
    POP POP_MARK PROTO PUT REDUCE SETITEM SETITEMS SHORT_BINBYTES SHORT_BINSTRING SHORT_BINUNICODE
    STACK_GLOBAL STOP STRING TUPLE TUPLE1 TUPLE2 TUPLE3 UNICODE
"""

_DTYPE_NAMES = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"]
_KEY_TYPES = (str, bytes, int, float, bool, type(None))
_MAX_AXES = 8


class _Dispatch(dict):
    """Opcode to method; an opcode that is not admitted is refused."""

    def __missing__(self, code):
        raise _Refused(f"holds pickle opcode {chr(code)!r}, which no file of arrays needs; "
                       f"give an .npz file or a parameter file of tf-smoe")


class _Global:
    """Stands for an admitted global; holds nothing that a pickle could change."""

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

    It extends the unpickler written in Python: the one in C, pickle.Unpickler, allocates whatever
    size a file declares (a few bytes are enough for 32 GiB), and cannot be told which opcodes to
    refuse. Arrays are few opcodes and many bytes, so the speed is the same.
    """

    dispatch = _Dispatch(
        (getattr(pickle, name)[0], pickle._Unpickler.dispatch[getattr(pickle, name)[0]])
        for name in _OPCODES.split()
    )

    def __init__(self, data):
        super().__init__(io.BytesIO(data), encoding="latin1")  # latin1: bytes of Python 2, kept
        self._bytes_left = len(data)

    def find_class(self, module, name):
        if (module, name) not in _ADMITTED:
            raise _Refused(
                f"asks for the global {f'{module}.{name}'[:80]!r}, which is not part of an array, "
                "and pickle code is never run"
            )
        method = _ADMITTED[module, name]
        return _Global(f"{module}.{name}", getattr(self, method) if method else None)

    # Opcodes whose usual methods call, hash, allocate or set attributes as the file says.

    def load_reduce(self):
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not _Global or not function.call or type(arguments) is not tuple:
            raise _Refused("calls something that does not make an array")
        self.stack[-1] = function.call(*arguments)

    def load_build(self):
        state = self.stack.pop()
        if type(self.stack[-1]) is _PendingDtype:
            self._set_byte_order(self.stack[-1], *state)
        elif type(self.stack[-1]) is _PendingArray:
            self._fill_array(self.stack[-1], *state)
        else:
            raise _Refused("sets the state of something that is not an array")

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
        # Hashing a tuple of tuples of tuples can take for ever, or overflow the C stack.
        if type(target) is not dict or any(type(key) not in _KEY_TYPES for key in items[::2]):
            raise _Refused("holds a dict whose keys are not plain")
        target.update(zip(items[::2], items[1::2]))

    # What stands for the admitted globals.

    def _begin_array(self, subtype, shape, typecode):
        if type(subtype) is not _Global or subtype.name != "numpy.ndarray" or shape != (0,):
            raise _Refused("builds an array of an unknown kind")
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
            raise _Refused(f"holds an array of dtype {shown!r}; only real numbers are read")
        return _PendingDtype(np.dtype(name))

    def _set_byte_order(self, pending, version, order, subdtype, names, fields, *sizes):
        if (subdtype, names, fields) != (None, None, None) or order not in ("<", ">", "|", "="):
            raise _Refused("holds an array of records; only plain arrays are read")
        pending.dtype = pending.dtype.newbyteorder(order)

    def _encode(self, text, encoding):
        # How bytes are written in protocols 0 to 2.
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise _Refused("encodes something that is not bytes")
        # The same text, encoded over and over, could fill the memory; no honest file does that.
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise _Refused("declares more bytes than it holds")
        return text.encode("latin-1")

    def _no_bytes(self):
        return b""

    def _array(self, shape, dtype, data, order):
        if type(dtype) is not _PendingDtype:
            raise _Refused("holds an array without a dtype")
        if type(shape) is not tuple or len(shape) > _MAX_AXES:
            raise _Refused("holds an array without a proper shape")
        if any(type(size) is not int or not 0 <= size < 1 << 63 for size in shape):
            raise _Refused("holds an array without a proper shape")
        if type(data) is str:  # the bytes of Python 2
            data = self._encode(data, "latin1")
        if type(data) is not bytes:
            raise _Refused("holds an array of objects; only real numbers are read")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise _Refused(f"holds an array of {len(data)} bytes, which does not fit its shape")
        return np.ndarray(shape, dtype.dtype, data, order=order)


def load_tf_smoe_pickle(path):
    """Load the arrays of a parameter file of tf-smoe, without running any pickle code.

    Such a file is the pickle of a dict whose entry ``params`` is a dict of arrays. It is read
    whatever version of Python (2 or 3) and NumPy wrote it.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    arrays : dict of str to ndarray
        Those of `PARAM_NAMES` that the file has, C-contiguous and writable, in the shapes and the
        precision of the file.

    Raises
    ------
    ValueError
        If the file is empty, cut off, damaged or no such pickle, or asks for anything but numeric
        arrays; the message names the path and what was refused.
    OSError
        If the file cannot be opened; see `open_to_read`.
    """
    text = path_text(path)
    with open_to_read(path) as stream:
        data = stream.read()
    try:
        if not data:
            raise _Refused("is empty; save it again")
        content = _ArrayUnpickler(data).load()
        params = content.get("params") if type(content) is dict else None
        if type(params) is not dict:
            raise _Refused("is not a parameter file of tf-smoe: it has no dict 'params'")
        return {
            name: _owned(params[name].array)
            for name in PARAM_NAMES
            if type(params.get(name)) is _PendingArray
        }
    except _Refused as refusal:
        raise ValueError(f"{text!r} {refusal}") from None
    except Exception as error:  # bytes that are no pickle fail in every way there is
        raise ValueError(
            f"{text!r} is neither a .npz file nor a readable pickle of tf-smoe, or is cut off or "
            f"damaged ({_briefly(error)}); save or copy it again"
        ) from error


# ---- either -------------------------------------------------------------------------------------


def load_param_arrays(path):
    """Load the parameters of a model from a .npz file or from a pickle of tf-smoe.

    What kind of file it is, is decided by its first bytes, not by its name.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    arrays : dict of str to ndarray
        ``pis``, ``musX``, ``A``, ``gamma_e`` and ``nu_e``, as stored; other arrays are left out.
    meta : dict
        What `save_arrays` was given; empty for a pickle.

    Raises
    ------
    ValueError
        If the file cannot be understood or lacks an array; see `load_arrays` and
        `load_tf_smoe_pickle`.
    OSError
        If the file cannot be opened; see `open_to_read`.
    """
    with open_to_read(path) as stream:
        is_zip = stream.read(2) == b"PK"
    arrays, meta = load_arrays(path) if is_zip else (load_tf_smoe_pickle(path), {})
    missing = [name for name in PARAM_NAMES if name not in arrays]
    if missing:
        raise ValueError(
            f"{path_text(path)!r} has no array {', '.join(missing)}; "
            f"a model needs {', '.join(PARAM_NAMES)}"
        )
    return {name: arrays[name] for name in PARAM_NAMES}, meta
