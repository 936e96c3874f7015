"""Models in few bytes: every number as so many bits over the range that its kind has in the model.

A file has a header, then whole numbers i of b bits that stand for low + i/(2ᵇ − 1) · (high − low).
Not all of them need occur: "11.5 bits" are 2896 levels, numbers of 12 bits up to 2895, and coding
spares the others. ``whole_numbers`` makes bytes of them: coded (version 2), or one after the other,
kind after kind (version 1), where that is shorter. Kernels are sorted; their order means nothing.
The kinds, in a kernel's own frame, in which an error means the same whatever the kernel's size:

    weights  log π             extents  log A_dd              values  s(ν̂ − ½), ν̂ = ν + γ·μ
    centres  s(μ − ½)          shears   s(A_ij/A_ii), i > j   slopes  s(η), γ = A η

where s(v) = v within ±1 and ±(1 + log|v|) beyond it, lest a few outliers make all others coarse.
The header, little endian, in bytes: ``SMoE`` (4), version (1), D (1), C (1), whether there are
slopes (1) and whether kernels are radial (1), K (4), the picture's sizes or zeros (4 D); then bits
(1), low and high (4 each, float32) of each kind; at the end the CRC-32 of the rest of the file (4).
"""

import math
import os
import struct
import zlib
from numbers import Real

import numpy as np

from .coding import Damaged
from .files import PARAM_NAMES, Refused, atomic_write, open_to_read, path_text
from .whole_numbers import coded, decoded, from_plain, order_along_curve, plain

MAGIC, ENDING = b"SMoE", ".smoe"
PLAIN, CODED = 1, 2  # versions
KINDS = ("weights", "centres", "extents", "shears", "values", "slopes")
FEWEST_BITS, USUAL_BITS, MOST_BITS = 4, 16, 24  # of a number; float32 can tell no more apart
MOST_DIMENSIONS, MOST_CHANNELS = 8, 255  # with more of the first, A would outgrow any file
MOST_STORED = 100.0  # magnitude of a logarithm, and of what s gives; float32 has no larger ones
# Bits that coding usually spares a number; of channels, one of the first, and one of the others.
SPARED = {"weights": (0.9, 0), "centres": (0, 0), "extents": (0.6, 0), "shears": (0.8, 0),
          "values": (0.8, 3.0), "slopes": (2.3, 4.6)}
UNTIL_LEARNED = 100  # kernels after which half of that is spared
CHANNELS = ("values", "slopes")  # kinds of which every channel has its own
ORDER = 0.7  # bits by which log₂ K exceeds what is spared of a centre
LEAST_CODED = 1  # bits of a number, in the mean; fewer would be a trap for who unpacks it
_HEAD, _RANGE, _CHECKSUM = struct.Struct("<4sBBBBBI"), struct.Struct("<Bff"), struct.Struct("<I")


def bits_of(kinds, bits):
    """The bits of each kind, fractions allowed, from one number for all or from a dict.

    Raises
    ------
    TypeError, ValueError
        If that is neither, or a number is not among 4 to 24.
    """
    given = bits if isinstance(bits, dict) else dict.fromkeys(kinds, bits)
    unknown = sorted(set(given) - set(KINDS))
    missing = [kind for kind in kinds if kind not in given]
    if unknown or missing:
        raise ValueError(f"bits must be one number, or a dict of {', '.join(kinds)}; got a dict "
                         f"{f'with {unknown}' if unknown else f'without {missing}'}")
    for kind, number in given.items():
        if not isinstance(number, Real) or isinstance(number, bool):
            raise TypeError(f"bits must be numbers, got {number!r} for {kind}")
        if not FEWEST_BITS <= number <= MOST_BITS:
            raise ValueError(f"bits must be {FEWEST_BITS} to {MOST_BITS}, got {number} for {kind}")
    return {kind: float(given[kind]) for kind in kinds}  # of NumPy, JSON could not write them


def width_of(bits):
    """Whole bits that hold as many levels as there are in ``bits``."""
    return (_levels(bits) - 1).bit_length()


def _levels(bits):
    return round(2**bits)


def numbers_of(D, C, has_slopes, is_radial=False):
    """How many numbers of each kind a kernel has: dict of those that it has."""
    counts = {"weights": 1, "centres": D, "extents": 1 if is_radial else D,
              "shears": 0 if is_radial else D * (D - 1) // 2, "values": C,
              "slopes": C * D if has_slopes else 0}
    return {kind: count for kind, count in counts.items() if count}


def _check_packable(arrays):
    """A ValueError says why a packed file cannot hold these arrays."""
    pis, A = arrays["pis"], arrays["A"]
    D, C = A.shape[1], arrays["nu_e"].shape[1]
    if not (pis > 0).all():
        raise ValueError("params has kernels of weight 0 or below, which a packed file cannot "
                         "hold; leave them out with params.select(params.pis > 0)")
    if not (np.diagonal(A, axis1=1, axis2=2) > 0).all():
        raise ValueError("params has steering matrices whose diagonal is not above 0, which a "
                         "packed file cannot hold; save as .npz")
    if D > MOST_DIMENSIONS or C > MOST_CHANNELS:
        raise ValueError(f"params has {D} dimensions and {C} channels, and a packed file holds "
                         f"{MOST_DIMENSIONS} and {MOST_CHANNELS} at most; save as .npz")


def kinds_of(arrays):
    """The numbers of a model by kind, as they are stored: dict of (K, n) float64.

    Parameters
    ----------
    arrays : dict
        ``pis``, ``musX``, ``A``, ``gamma_e``, ``nu_e`` in the shapes of ``SmoeParams``.

    Raises
    ------
    ValueError
        If a packed file cannot hold them.
    """
    _check_packable(arrays)
    pis, musX, A, gamma_e, nu_e = (arrays[name].astype(np.float64) for name in PARAM_NAMES)
    D = musX.shape[1]
    diagonal = np.diagonal(A, axis1=1, axis2=2)
    rows, columns = np.tril_indices(D, -1)
    found = {"weights": np.log(pis)[:, None], "centres": _bent(musX - 0.5),
             "extents": np.log(diagonal),
             "shears": _bent(A[:, rows, columns] / diagonal[:, rows]),
             "values": _bent(nu_e + (gamma_e * musX[:, None]).sum(2) - 0.5)}
    if gamma_e.any():
        eta = np.linalg.solve(A, gamma_e.transpose(0, 2, 1))  # (K, D, C)
        found["slopes"] = _bent(eta.transpose(0, 2, 1).reshape(len(pis), -1))
    if len(pis) and _is_radial(A):
        found["extents"] = found["extents"][:, :1]
        del found["shears"]
    for kind, numbers in found.items():
        if not (np.abs(numbers) <= MOST_STORED).all():
            raise ValueError(f"params has {kind} beyond what a packed file can hold; save as .npz")
    return {kind: numbers for kind, numbers in found.items() if numbers.shape[1]}


def arrays_of(found, D, C):
    """The arrays of a model from its numbers by kind; ``kinds_of`` the other way."""
    K = len(found["weights"])
    musX = _straight(found["centres"]) + 0.5
    diagonal = np.exp(np.broadcast_to(found["extents"], (K, D)))
    A = np.zeros((K, D, D))
    A[:, range(D), range(D)] = diagonal
    if "shears" in found:
        rows, columns = np.tril_indices(D, -1)
        A[:, rows, columns] = _straight(found["shears"]) * diagonal[:, rows]
    gamma_e = np.zeros((K, C, D))
    if "slopes" in found:
        eta = _straight(found["slopes"]).reshape(K, C, D)
        gamma_e = eta @ A.transpose(0, 2, 1)
    nu_e = _straight(found["values"]) + 0.5 - (gamma_e * musX[:, None]).sum(2)
    return {"pis": np.exp(found["weights"][:, 0]), "musX": musX, "A": A, "gamma_e": gamma_e,
            "nu_e": nu_e}


def expected_bytes(K, D, C, has_slopes, bits):
    """Bytes that the file of a fit of K kernels takes, about, with so many bits a number.

    With ``FEWEST_BITS`` it takes no more in any case.
    """
    counts = numbers_of(D, C, has_slopes)
    spared = max(math.log2(max(K, 1)) - ORDER, 0)  # log₂ K! bits are those of the order of kernels
    for kind, count in counts.items():
        of_first, of_others = SPARED[kind]
        first = count // C if kind in CHANNELS else count
        spared += (of_first * first + of_others * (count - first)) * K / (K + UNTIL_LEARNED)
    numbers = sum(counts.values())
    each = max(numbers * bits - spared, numbers * FEWEST_BITS)
    # a kind of numbers that are not coded begins with a byte of its own, and may waste one
    return header_bytes(D, len(counts)) + len(counts) + math.ceil(K * each / 8)


def rounded(found, bits):
    """The numbers by kind as a file of so many bits gives them back."""
    result = {}
    for kind, numbers in found.items():
        low, high = _range(numbers, bits[kind])
        width = width_of(bits[kind])
        result[kind] = _numbers(_integers(numbers, low, high, width), low, high, width)
    return result


def header_bytes(D, kinds):
    """Bytes of a file besides those of its numbers, with its checksum."""
    return _HEAD.size + 4 * D + kinds * _RANGE.size + _CHECKSUM.size


def packed_bytes(arrays, bits):
    """Bytes of the file that ``save_packed`` writes."""
    return len(_packed(arrays, None, bits))


def save_packed(path, arrays, image_shape, bits):
    """Write a model in few bytes, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    arrays : dict
        Those of a ``SmoeParams``, of NumPy.
    image_shape : tuple of D ints or None
    bits : float or dict
        Of each number, 4 to 24; a dict has them by kind.

    Raises
    ------
    ValueError
        If the model has kernels of weight 0 or below or of negative gates, which have no place in
        such a file, or ``bits`` are not as they must be.
    TypeError
        If ``bits`` are no numbers.
    OSError
        If the file cannot be written.
    """
    data = _packed(arrays, image_shape, bits)
    with atomic_write(path) as stream:
        stream.write(data)


def _packed(arrays, image_shape, bits):
    found = kinds_of(arrays)
    bits = bits_of(found, bits)
    K, D = arrays["musX"].shape
    C = arrays["nu_e"].shape[1]
    sizes = (0,) * D if image_shape is None else image_shape
    is_radial = "shears" not in found and D > 1
    ranges = {kind: _range(numbers, bits[kind]) for kind, numbers in found.items()}
    widths = {kind: width_of(number) for kind, number in bits.items()}
    integers = {kind: _integers(numbers, *ranges[kind], widths[kind])
                for kind, numbers in found.items()}
    order = order_along_curve(integers["centres"], widths["centres"])
    integers = {kind: numbers[order] for kind, numbers in integers.items()}
    version, body = CODED, coded(_varied(integers, ranges), widths, D)
    counts = {kind: numbers.shape[1] for kind, numbers in found.items()}
    whole = sum(_plain_bytes(counts, widths, K).values())
    if not _least_coded_bytes(counts, K) <= len(body) < whole:
        version, body = PLAIN, b"".join(plain(integers[kind], widths[kind]) for kind in found)
    data = b"".join([
        _HEAD.pack(MAGIC, version, D, C, "slopes" in found, is_radial, K),
        struct.pack(f"<{D}I", *sizes),
        *(_RANGE.pack(widths[kind], *ranges[kind]) for kind in found), body])
    return data + _CHECKSUM.pack(zlib.crc32(data))


def _plain_bytes(counts, widths, K):
    """Bytes that numbers of each kind take where they are not coded."""
    return {kind: -(-K * count * widths[kind] // 8) for kind, count in counts.items()}


def _least_coded_bytes(counts, K):
    return LEAST_CODED * K * sum(counts.values()) / 8


def model_ending(path):
    """How the name of a model's file ends, ``.npz`` or ``.smoe``; ValueError for any other."""
    ending = os.path.splitext(path_text(path))[1].lower()
    if ending not in (".npz", ENDING):
        raise ValueError(f"the model is written as .npz or {ENDING}; give a name that ends so "
                         f"instead of {path_text(path)!r}")
    return ending


def is_packed_name(path):
    """Whether the file of a model is to be packed; ValueError if it has no name of one."""
    return model_ending(path) == ENDING


def is_packed(path):
    """Whether a file begins as ``save_packed`` has them begin."""
    with open_to_read(path) as stream:
        return stream.read(len(MAGIC)) == MAGIC


def load_packed(path):
    """Read what ``save_packed`` wrote.

    Returns
    -------
    arrays : dict
        float32.
    meta : dict
        ``bits`` of each kind of numbers; ``image_shape``, where it is known.

    Raises
    ------
    ValueError
        If the file is cut off or damaged, or of a later version.
    OSError
        If it cannot be opened.
    """
    with open_to_read(path) as stream:
        data = stream.read()
    try:
        return _unpacked(data)
    except Refused as refusal:
        raise ValueError(f"{path_text(path)!r} {refusal}") from None


def _unpacked(data):
    damaged = Refused("is cut off or damaged; save or copy it again")
    if len(data) < _HEAD.size + _CHECKSUM.size:
        raise damaged
    data, checksum = data[:-_CHECKSUM.size], data[-_CHECKSUM.size:]
    magic, version, D, C, has_slopes, is_radial, K = _HEAD.unpack_from(data)
    if version not in (PLAIN, CODED):
        raise Refused(f"is a packed model of version {version}, and this reads {PLAIN} and "
                      f"{CODED}; a later smoe_np wrote it")
    if zlib.crc32(data) != _CHECKSUM.unpack(checksum)[0] or C < 1 or not (
            1 <= D <= MOST_DIMENSIONS):
        raise damaged
    counts = numbers_of(D, C, has_slopes, is_radial)
    if len(data) < header_bytes(D, len(counts)) - _CHECKSUM.size:
        raise damaged
    sizes = struct.unpack_from(f"<{D}I", data, _HEAD.size)
    ranges, widths, at = {}, {}, _HEAD.size + 4 * D
    for kind in counts:
        widths[kind], *ranges[kind] = _RANGE.unpack_from(data, at)
        at += _RANGE.size
        low, high = ranges[kind]
        if not (FEWEST_BITS <= widths[kind] <= MOST_BITS
                and -MOST_STORED <= low <= high <= MOST_STORED):
            raise damaged
    body = data[at:]
    integers = (_plain_integers(body, counts, widths, K) if version == PLAIN
                else _coded_integers(body, counts, ranges, widths, D, K))
    if integers is None:
        raise damaged
    found = {kind: _numbers(integers[kind], *ranges[kind], widths[kind]) for kind in counts}
    bits = {kind: _bits_that_occur(integers[kind], widths[kind]) for kind in counts}
    arrays = {name: array.astype(np.float32) for name, array in arrays_of(found, D, C).items()}
    return arrays, {"bits": bits, "image_shape": sizes} if all(sizes) else {"bits": bits}


def _bits_that_occur(integers, width):
    """Of how many bits the levels are that numbers of a width have been rounded to."""
    levels = 1 + int(integers.max(initial=0))
    if levels <= 1 << width - 1:
        return width
    exact = math.log2(levels)
    short = (round(exact, digits) for digits in range(8))
    return next((bits for bits in short if _levels(bits) == levels), exact)


def _plain_integers(body, counts, widths, K):
    """Whole numbers by kind from the body of a file of version 1; None if it cannot be one."""
    lengths = _plain_bytes(counts, widths, K)
    if len(body) != sum(lengths.values()):
        return None
    integers, at = {}, 0
    for kind, count in counts.items():
        part = body[at:at + lengths[kind]]
        integers[kind] = from_plain(part, K * count, widths[kind]).reshape(K, count)
        at += lengths[kind]
    return integers


def _coded_integers(body, counts, ranges, widths, D, K):
    """Whole numbers by kind from the body of a file of version 2; None if it cannot be one."""
    if len(body) < _least_coded_bytes(counts, K):
        return None
    zeros = {kind: np.zeros((K, count), np.uint32) for kind, count in counts.items()}
    varied = _varied(zeros, ranges)
    try:
        told = decoded(body, {kind: counts[kind] for kind in varied}, widths, D, K)
    except Damaged:
        return None
    return {**zeros, **told}


# ---- numbers and bits


def _is_radial(A):
    return A.shape[1] > 1 and bool((A == A[:, :1, :1] * np.eye(A.shape[1])).all())


def _bent(v):
    """v within ±1, ±(1 + log|v|) beyond."""
    size = np.maximum(np.abs(v), 1)
    return np.where(np.abs(v) <= 1, v, np.sign(v) * (1 + np.log(size)))


def _straight(v):
    """``_bent`` the other way."""
    size = np.maximum(np.abs(v), 1)
    return np.where(np.abs(v) <= 1, v, np.sign(v) * np.exp(size - 1))


def _range(numbers, bits):
    """Where 0 and the largest of ``width_of(bits)`` bits lie, as float32 can hold them.

    That is beyond the largest number where there are fewer levels.
    """
    if not numbers.size:
        return 0.0, 0.0
    low, high = float(np.float32(numbers.min())), float(np.float32(numbers.max()))
    beyond = low + (high - low) * (((1 << width_of(bits)) - 1) / (_levels(bits) - 1))
    return low, float(np.float32(beyond)) if beyond <= MOST_STORED else high


def _integers(numbers, low, high, width):
    if high == low:
        return np.zeros(numbers.shape, np.uint32)
    steps = (1 << width) - 1
    return np.rint(np.clip((numbers - low) / (high - low), 0, 1) * steps).astype(np.uint32)


def _varied(integers, ranges):
    """Those by kind of which not all are the same, and the centres: others need not be told."""
    return {kind: numbers for kind, numbers in integers.items()
            if kind == "centres" or ranges[kind][0] < ranges[kind][1]}


def _numbers(integers, low, high, width):
    return low + integers * ((high - low) / ((1 << width) - 1))
