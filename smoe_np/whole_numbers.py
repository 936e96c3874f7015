"""Whole numbers of kernels, by kind, as bytes: one after the other, or coded.

Coded, kernels are sorted along a curve that fills space (Morton's: the bits of all axes in turn),
and of where they are only the steps along it are told: the order of kernels means nothing, and
log₂ K! bits are spared. Of values and slopes the first channel is told, and of others how they
differ from the one before. All of these are columns of ``coding``.
"""

import numpy as np

from .coding import Column, Reader, Writer, even, falling, go_through

CURVE_BITS = 60  # at most, of a place on the curve
BLOCK = 1 << 15  # numbers that are taken apart into bits at a time; whole bytes


def order_along_curve(centres, bits):
    """The indices that sort kernels along the curve, from whole numbers (K, D) of so many bits."""
    return np.argsort(_places(centres, bits), kind="stable")


def coded(integers, bits, D):
    """Bytes of whole numbers by kind.

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
    """The whole numbers (K, n) by kind, of n as ``counts`` tells, that ``coded`` made bytes of.

    Raises
    ------
    coding.Damaged
        If these bytes cannot be such.
    """
    integers = {kind: np.zeros((K, count), np.int64) for kind, count in counts.items()}
    reader = Reader(K, data)
    columns = list(_columns(integers, bits, D))
    go_through(reader, columns)
    reader.check_end()
    _from_columns(integers, bits, D, columns)
    return integers


def _columns(integers, bits, D):
    """The columns that tell whole numbers by kind, in the order in which they are coded."""
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
    """Set whole numbers by kind to what columns tell."""
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
    """Which number of a kind is the same as number n, of the channel before; ``None``: none."""
    step = {"values": 1, "slopes": D}.get(kind)
    return None if step is None or n < step else n - step


def _added(numbers, others, bits):
    """The sum in so many bits, and half of their range, so that what differs little is near it.

    That half is its own opposite: a difference is undone by a sum.
    """
    return numbers + others + (1 << bits - 1) & (1 << bits) - 1


def _axis_bits(bits, D):
    """Bits of each axis, the first ones, that tell a place on the curve."""
    return min(bits, CURVE_BITS // D)


def _in_turn(axis_bits, D):
    """Of each bit of a place, from the last one on: its number, its axis, and its number there."""
    return [(bit, D - 1 - bit % D, bit // D) for bit in range(axis_bits * D)]


def _places(centres, bits):
    """Where on the curve kernels are: (K,) int64."""
    D = centres.shape[1]
    axis_bits = _axis_bits(bits, D)
    places = np.zeros(len(centres), np.int64)
    for bit, axis, rank in _in_turn(axis_bits, D):
        places |= (centres[:, axis].astype(np.int64) >> bits - axis_bits + rank & 1) << bit
    return places


def plain(integers, bits):
    """Bytes of whole numbers of so many bits each, most significant bit first."""
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint32)
    flat, parts = integers.astype(np.uint32).reshape(-1, 1), []
    for begin in range(0, len(flat), BLOCK):
        parts.append(np.packbits((flat[begin:begin + BLOCK] >> shifts & 1).astype(np.uint8)))
    return b"".join(part.tobytes() for part in parts)


def from_plain(data, count, bits):
    """The whole numbers that ``plain`` made bytes of: (count,) uint32."""
    integers = np.empty(count, np.uint32)
    factors = np.uint32(1) << np.arange(bits - 1, -1, -1, dtype=np.uint32)
    stored = np.frombuffer(data, np.uint8)
    for begin in range(0, count, BLOCK):
        size = min(BLOCK, count - begin)
        part = stored[begin * bits // 8:-(-(begin + size) * bits // 8)]
        ones = np.unpackbits(part, count=size * bits).reshape(size, bits)
        integers[begin:begin + size] = ones.astype(np.uint32) @ factors
    return integers
