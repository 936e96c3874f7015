"""The packed file format: every number of a model quantized to b bits over its kind's range.

A file has a header, then integers i of b bits that stand for low + i/(2ᵇ − 1) · (high − low). Not
all of them need occur: "11.5 bits" are 2896 levels, the 12-bit integers from 0 to 2895, and coding
saves what the others would cost. ``whole_numbers`` turns the integers into bytes: entropy-coded
(version 2), or plain, kind after kind (version 1), where that is shorter. Kernels are sorted; their
order has no meaning. The kinds of numbers, in each kernel's own frame, where an error has the same
effect whatever the kernel's size:

    weights  log π             extents  log A_dd              values  s(ν̂ − ½), ν̂ = ν + γ·μ
    centres  s(μ − ½)          shears   s(A_ij/A_ii), i > j   slopes  s(η), γ = A η

where s(v) = v within ±1 and ±(1 + log|v|) beyond, so that a few outliers do not coarsen the rest.
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
# bits per number; float32 has a precision of 24 bits
FEWEST_BITS, USUAL_BITS, MOST_BITS = 4, 16, 24
MOST_DIMENSIONS, MOST_CHANNELS = 8, 255  # with more dimensions, A would outgrow any file
MOST_STORED = 100.0  # largest magnitude of a logarithm, and of s(v); float32 has none beyond
# Bits per number that coding usually saves, by kind: in the first channel, and in the others.
SPARED = {"weights": (0.9, 0), "centres": (0, 0), "extents": (0.6, 0), "shears": (0.8, 0),
          "values": (0.8, 3.0), "slopes": (2.3, 4.6)}
# number of kernels with which half of that is saved, as frequencies are learned
UNTIL_LEARNED = 100
CHANNELS = ("values", "slopes")  # kinds that have numbers for every channel
UNSAVED_BY_ORDER = 0.7  # bits by which log₂ K exceeds what coding saves per kernel by its order
# least mean bits per number that is accepted; fewer could expand without limit on reading
LEAST_CODED = 1
_HEAD, _RANGE, _CHECKSUM = struct.Struct("<4sBBBBBI"), struct.Struct("<Bff"), struct.Struct("<I")


def bits_of(kinds, bits):
    """The bits of each kind, fractions allowed, from one number for all or a dict by kind.

    Raises
    ------
    TypeError, ValueError
        If ``bits`` is neither, or a number is not in 4 to 24.
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
    return {kind: float(given[kind]) for kind in kinds}  # JSON cannot write NumPy numbers


def width_of(bits):
    """Bits of the integers that hold the round(2**bits) levels of ``bits``."""
    return (_levels(bits) - 1).bit_length()


def _levels(bits):
    return round(2**bits)


def numbers_of(D, C, has_slopes, is_radial=False):
    """The number of numbers of each kind per kernel: dict, without kinds that are absent."""
    counts = {"weights": 1, "centres": D, "extents": 1 if is_radial else D,
              "shears": 0 if is_radial else D * (D - 1) // 2, "values": C,
              "slopes": C * D if has_slopes else 0}
    return {kind: count for kind, count in counts.items() if count}


def _check_packable(arrays):
    """Raise ValueError, with the reason, if a packed file cannot hold these arrays."""
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
    """The arrays of a model from its numbers by kind: the inverse of ``kinds_of``."""
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
    """Estimated bytes of the packed file of K kernels at ``bits`` bits per number.

    With ``FEWEST_BITS`` it is an upper bound.
    """
    counts = numbers_of(D, C, has_slopes)
    # the order of kernels is worth log₂ K! bits in all
    spared = max(math.log2(max(K, 1)) - UNSAVED_BY_ORDER, 0)
    for kind, count in counts.items():
        of_first, of_others = SPARED[kind]
        first = count // C if kind in CHANNELS else count
        spared += (of_first * first + of_others * (count - first)) * K / (K + UNTIL_LEARNED)
    numbers = sum(counts.values())
    each = max(numbers * bits - spared, numbers * FEWEST_BITS)
    # each uncoded kind begins at a whole byte, and may waste one
    return header_bytes(D, len(counts)) + len(counts) + math.ceil(K * each / 8)


def rounded(found, bits):
    """The numbers by kind after quantization to ``bits``, as a packed file returns them."""
    result = {}
    for kind, numbers in found.items():
        low, high = _range(numbers, bits[kind])
        width = width_of(bits[kind])
        result[kind] = _numbers(_integers(numbers, low, high, width), low, high, width)
    return result


def header_bytes(D, kinds):
    """Bytes of the header and the checksum of a file."""
    return _HEAD.size + 4 * D + kinds * _RANGE.size + _CHECKSUM.size


def packed_bytes(arrays, bits):
    """Bytes of the file that ``save_packed`` writes."""
    return len(_packed(arrays, None, bits))


def save_packed(path, arrays, image_shape, bits):
    """Write a packed model, atomically.

    Parameters
    ----------
    path : str or os.PathLike
    arrays : dict
        The NumPy arrays of a ``SmoeParams``, by name.
    image_shape : tuple of D ints or None
    bits : float or dict
        Bits per number, 4 to 24; or a dict of bits by kind.

    Raises
    ------
    ValueError
        If the model has kernels of weight 0 or below or with negative gates, which a packed file
        cannot hold, or ``bits`` are out of range.
    TypeError
        If ``bits`` are not numbers.
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
    """Bytes by kind if the numbers are not coded."""
    return {kind: -(-K * count * widths[kind] // 8) for kind, count in counts.items()}


def _least_coded_bytes(counts, K):
    return LEAST_CODED * K * sum(counts.values()) / 8


def model_ending(path):
    """The ending of a model file's name, ``.npz`` or ``.smoe``; ValueError for any other."""
    ending = os.path.splitext(path_text(path))[1].lower()
    if ending not in (".npz", ENDING):
        raise ValueError(f"the model is written as .npz or {ENDING}; give a name that ends so "
                         f"instead of {path_text(path)!r}")
    return ending


def is_packed_name(path):
    """Whether a model file is packed by its name; ValueError if its ending is not a model's."""
    return model_ending(path) == ENDING


def is_packed(path):
    """Whether a file begins like those of ``save_packed``."""
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
    """The bits, fractions included, to which integers of a width were quantized."""
    levels = 1 + int(integers.max(initial=0))
    if levels <= 1 << width - 1:
        return width
    exact = math.log2(levels)
    short = (round(exact, digits) for digits in range(8))
    return next((bits for bits in short if _levels(bits) == levels), exact)


def _plain_integers(body, counts, widths, K):
    """Integers by kind from the body of a file of version 1; None if it is malformed."""
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
    """Integers by kind from the body of a file of version 2; None if it is malformed."""
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
    """The inverse of ``_bent``."""
    size = np.maximum(np.abs(v), 1)
    return np.where(np.abs(v) <= 1, v, np.sign(v) * np.exp(size - 1))


def _range(numbers, bits):
    """The values of 0 and of the largest integer of ``width_of(bits)`` bits, exact in float32.

    The latter is above the largest number where there are fewer levels than integers.
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
    """The kinds whose numbers are not all equal, and the centres: others need no coding."""
    return {kind: numbers for kind, numbers in integers.items()
            if kind == "centres" or ranges[kind][0] < ranges[kind][1]}


def _numbers(integers, low, high, width):
    return low + integers * ((high - low) / ((1 << width) - 1))
