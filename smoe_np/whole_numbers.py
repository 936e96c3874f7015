"""The integers of a packed model, by kind, as bytes: plain or entropy-coded.

For coding, kernels are sorted along a space-filling curve (Morton: the bits of all axes
interleaved), and only the steps along it are stored of their centres: the order of kernels has no
meaning, which saves log₂ K! bits. Values and slopes are stored for the first channel, and as
differences from the channel before for the others. All of these are columns of ``coding``.
"""

import numpy as np

from .coding import Column, Reader, Writer, even, falling, go_through

CURVE_BITS = 60  # most bits of a position on the curve
# numbers converted to bits at a time; a multiple of 8, so that each block ends at a whole byte
BLOCK = 1 << 15


def order_along_curve(centres, bits):
    """The indices that sort kernels along the curve, from their centres (K, D) of ``bits`` bits."""
    return np.argsort(_places(centres, bits), kind="stable")


def coded(integers, bits, D):
    """Entropy-coded bytes of integers by kind.

    Parameters
    ----------
    integers : dict of str to (K, n) int array
        Those of ``packed.KINDS``, with the centres, sorted along the curve; kinds of which all are
        0 may be left out.
    bits : dict of str to int
    D : int
        Dimensions.
    """
    K = len(integers["centres"])
    integers = {kind: numbers.astype(np.int64) for kind, numbers in integers.items()}
    writer = Writer(K)
    go_through(writer, list(_columns(integers, bits, D)))
    return writer.data()


def decoded(data, counts, bits, D, K):
    """The inverse of ``coded``: integers (K, n) by kind, with n from ``counts``.

    Raises
    ------
    coding.Damaged
        If the bytes cannot come from ``coded``.
    """
    integers = {kind: np.zeros((K, count), np.int64) for kind, count in counts.items()}
    reader = Reader(K, data)
    columns = list(_columns(integers, bits, D))
    go_through(reader, columns)
    reader.check_end()
    _from_columns(integers, bits, D, columns)
    return integers


def _columns(integers, bits, D):
    """Yield the columns that represent the integers, in the order in which they are coded."""
    axis_bits = _axis_bits(bits["centres"], D)
    places = _places(integers["centres"], bits["centres"])
    yield Column(np.diff(places, prepend=0), falling(axis_bits * D))
    spare = bits["centres"] - axis_bits
    for axis in range(D if spare else 0):
        yield Column(integers["centres"][:, axis] & (1 << spare) - 1, even(spare))
    for kind, numbers in integers.items():
        if kind != "centres":
            for n, column in enumerate(numbers.T):
                before = _channel_before(kind, n, D)
                yield Column(column.copy() if before is None
                             else _added(column, -numbers[:, before], bits[kind]), even(bits[kind]))


def _from_columns(integers, bits, D, columns):
    """Set integers by kind from their columns, in place: the inverse of ``_columns``."""
    columns = iter(columns)
    axis_bits = _axis_bits(bits["centres"], D)
    spare = bits["centres"] - axis_bits
    places = np.cumsum(next(columns).values)
    for bit, axis, rank in _in_turn(axis_bits, D):
        integers["centres"][:, axis] |= (places >> bit & 1) << spare + rank
    for axis in range(D if spare else 0):
        integers["centres"][:, axis] |= next(columns).values
    for kind, numbers in integers.items():
        if kind != "centres":
            for n in range(numbers.shape[1]):
                before = _channel_before(kind, n, D)
                told = next(columns).values
                numbers[:, n] = (told if before is None
                                 else _added(told, numbers[:, before], bits[kind]))


def _channel_before(kind, n, D):
    """The index of the same number in the channel before; None if there is none."""
    step = {"values": 1, "slopes": D}.get(kind)
    return None if step is None or n < step else n - step


def _added(numbers, others, bits):
    """The sum modulo 2^bits, plus half of that range, so that small differences lie at its middle.

    Half the range is its own negative: the same function undoes a difference by a sum.
    """
    return numbers + others + (1 << bits - 1) & (1 << bits) - 1


def _axis_bits(bits, D):
    """The number of leading bits of each axis that make up a position on the curve."""
    return min(bits, CURVE_BITS // D)


def _in_turn(axis_bits, D):
    """For each bit of a position, from the lowest: its index, its axis, its index on that axis."""
    return [(bit, D - 1 - bit % D, bit // D) for bit in range(axis_bits * D)]


def _places(centres, bits):
    """The positions of kernels on the curve: (K,) int64."""
    D = centres.shape[1]
    axis_bits = _axis_bits(bits, D)
    places = np.zeros(len(centres), np.int64)
    for bit, axis, rank in _in_turn(axis_bits, D):
        places |= (centres[:, axis].astype(np.int64) >> bits - axis_bits + rank & 1) << bit
    return places


def plain(integers, bits):
    """Bytes of integers of ``bits`` bits each, most significant bit first."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint32)
    flat, parts = integers.astype(np.uint32).reshape(-1, 1), []
    for begin in range(0, len(flat), BLOCK):
        parts.append(np.packbits((flat[begin:begin + BLOCK] >> shifts & 1).astype(np.uint8)))
    return b"".join(part.tobytes() for part in parts)


def from_plain(data, count, bits):
    """The inverse of ``plain``: (count,) uint32."""
    integers = np.empty(count, np.uint32)
    factors = np.uint32(1) << np.arange(bits - 1, -1, -1, dtype=np.uint32)
    stored = np.frombuffer(data, np.uint8)
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        part = stored[begin * bits // 8:-(-(begin + size) * bits // 8)]
        ones = np.unpackbits(part, count=size * bits).reshape(size, bits)
        integers[begin:begin + size] = ones.astype(np.uint32) @ factors
    return integers
