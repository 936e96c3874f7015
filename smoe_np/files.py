"""Atomic writing of files, and .npz archives of arrays.

Files are not trusted. Nothing in them is executed, declared sizes are compared with the bytes that
are there, and every error is reported in one line that names the path.
"""

import contextlib
import errno
import json
import math
import os
import re
import shlex
import stat

import numpy as np

PARAM_NAMES = ("pis", "musX", "A", "gamma_e", "nu_e")

NUMPY_START = b"\x93NUMPY"  # of a .npy file
_NUMERIC_KINDS = "biufc"  # dtype.kind of bool, integers, floats and complex numbers
_MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_UNPACKED_BYTES = 64 << 30
_MAX_EXPANSION = 1100  # deflate compresses by at most 1032 : 1


class Refused(Exception):
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
    """The path as a str, for messages; TypeError or ValueError if it is not a valid path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"path is of type {type(path).__name__}; give a str or an os.PathLike")
    text = os.fsdecode(path)
    if "\0" in text:
        raise ValueError(f"path {text!r} holds a null character; give a valid path")
    return text


def shell_line(words):
    """Words quoted as a command for a shell; always one line, even if names have line breaks."""
    def escaped(sign):
        if sign in "'\\":
            return "\\" + sign
        if sign.isprintable():
            return sign
        return "".join(f"\\x{byte:02x}" for byte in os.fsencode(sign))

    return " ".join(shlex.quote(word) if word.isprintable() else
                    f"$'{''.join(map(escaped, word))}'" for word in words)


def _in_words(error, verb, text):
    trouble = _TROUBLE_READING if verb == "read" else _TROUBLE_WRITING
    number = error.errno or errno.EIO
    reason = trouble.get(number, f"{os.strerror(number).lower()}; check the disk and the path")
    return OSError(number, f"cannot {verb} {text!r}: {reason}")


def open_to_read(path):
    """Open a file for reading, with error messages that say what to do.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    stream : binary file object

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, OSError
        If the file cannot be opened. The message, which ``strerror`` holds too, is one line that
        names the path and says what to do.
    """
    text = path_text(path)
    try:
        if os.path.isdir(text):  # Windows would report a lack of permission
            raise IsADirectoryError(errno.EISDIR, "")
        if os.path.exists(text) and not os.path.isfile(text):  # a device may never end
            raise OSError(errno.EINVAL, "")
        return open(text, "rb")
    except OSError as error:
        raise _in_words(error, "read", text) from error


@contextlib.contextmanager
def atomic_write(path):
    """Write a file completely or not at all; a context manager.

    It opens a temporary file in the same folder. At the end of the block the file is flushed to the
    disk and replaces `path` in one step. If the block raises, the file is removed, and an existing
    `path` stays as it was. Of a symbolic link, the target is replaced. A new file gets the default
    permissions; a replaced one keeps its own.

    Parameters
    ----------
    path : str or os.PathLike

    Yields
    ------
    stream : binary file object

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, OSError
        If the file cannot be written, with the ``errno`` of the failure (``ENOSPC``: the disk is
        full). The message, which ``strerror`` holds too, is one line that names the path and says
        what to do.
    """
    text = path_text(path)
    target = os.path.realpath(text)
    folder, name = os.path.split(target)
    # The name is cut, as a longer one than `name` might be too long for the file system.
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
        raise  # an error of the block itself, about another file


def _permissions_to_keep(text, target):
    """Mode bits of the file to be replaced, or None if there is none.

    Devices (/dev/null) and write-protected files are refused, as os.replace would replace them.
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


def briefly(error):
    """Type and first line of an error, for messages."""
    first_line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first_line[:120]}"


# ---- .npz ---------------------------------------------------------------------------------------


def save_arrays(path, arrays, meta=None):
    """Save named arrays, and facts about them, in one uncompressed .npz file.

    The file is written atomically, under exactly the name given. The same contents always result in
    the same bytes.

    Parameters
    ----------
    path : str or os.PathLike
    arrays : dict of str to array_like
        Arrays of numbers or booleans of any shape. Names consist of letters, digits, ``_``, ``.``
        and ``-``.
    meta : dict, optional
        Facts that JSON can represent; stored as a uint8 array named ``meta``.

    Raises
    ------
    TypeError
        If an array does not hold numbers, or `meta` is not a dict that JSON can represent.
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


def load_arrays(path, check=None):
    """Load a file that `save_arrays` wrote, or any .npz file of numeric arrays.

    Parameters
    ----------
    path : str or os.PathLike
    check : callable, optional
        Function that is called with a dict of the arrays' shapes by name before anything is
        unpacked; it may raise `Refused`.

    Returns
    -------
    arrays : dict of str to ndarray
        Arrays by name, C-contiguous, writable, in native byte order.
    meta : dict
        Facts that were saved with the arrays; empty if there are none.

    Raises
    ------
    ValueError
        If the file is empty, truncated, damaged or not an .npz file, holds objects, declares more
        data than it can hold, or has invalid names; the message names the path.
    OSError
        If the file cannot be opened; see `open_to_read`.
    """
    import zipfile

    text = path_text(path)
    with open_to_read(path) as stream:
        packed_bytes = os.fstat(stream.fileno()).st_size
        try:
            if packed_bytes == 0:
                raise Refused("is empty; save it again")
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                names = _member_names(members)
                _check_expansion(sum(member.file_size for member in members), packed_bytes)
                if check is not None:
                    check({name: _read_member(archive, member, name, shape_alone=True)
                           for name, member in zip(names, members)})
                arrays = {
                    name: _read_member(archive, member, name)
                    for name, member in zip(names, members)
                }
            return arrays, _meta_from_bytes(arrays.pop("meta", None))
        except Refused as refusal:
            raise ValueError(f"{text!r} {refusal}") from None
        except Exception as error:  # zipfile raises errors of many kinds
            raise ValueError(
                f"{text!r} is not a readable .npz file, or is cut off or damaged "
                f"({briefly(error)}); save or copy it again"
            ) from error


def _member_names(members):
    names = []
    for member in members:
        name, dot, ending = member.filename.rpartition(".")
        if ending != "npy" or not _MEMBER_NAME.fullmatch(name):
            raise Refused(
                f"holds an entry named {member.filename[:80]!r}, which is not the name of an "
                "array; give a .npz file of arrays"
            )
        if name in names:
            raise Refused(f"holds two arrays named {name!r}; save it again")
        names.append(name)
    return names


def _check_expansion(unpacked_bytes, packed_bytes):
    if unpacked_bytes > min(_MAX_UNPACKED_BYTES, _MAX_EXPANSION * packed_bytes):
        raise Refused(
            f"declares {unpacked_bytes} bytes of arrays in a file of {packed_bytes} bytes; "
            "such a file is not read"
        )


def _read_member(archive, member, name, shape_alone=False):
    """The array of a member, or its shape."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(stream)
        else:
            raise Refused(f"holds array {name!r} in .npy version {version}; only 1 and 2 are read")
        shape, column_major, dtype = header
        if dtype.kind not in _NUMERIC_KINDS:
            raise Refused(f"holds array {name!r} of dtype {dtype}; only numbers are read")
        declared, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if declared != held:
            raise Refused(
                f"holds array {name!r} of {held} bytes where its shape {shape} needs {declared}; "
                "save or copy it again"
            )
        if shape_alone:
            return shape
        data = stream.read(declared)  # to the end, where zipfile verifies the checksum
    array = np.ndarray(shape, dtype, data, order="F" if column_major else "C")
    return owned(array)


def owned(array):
    """A copy that is C-contiguous, writable and in the machine's byte order."""
    copy = np.empty(array.shape, dtype=array.dtype.type)
    copy[...] = array
    return copy


def _meta_from_bytes(array):
    if array is None:
        return {}
    try:
        meta = json.loads(array.tobytes().decode()) if array.dtype == np.uint8 else None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise Refused("holds an array 'meta' that is not a JSON object; save it again")
    return meta
