"""Whole numbers as bytes: they come back, in few bits, and what was not written is refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import coding, whole_numbers
from smoe_np.coding import MOST_LANES, Column, Damaged, Reader, Writer, even, falling, go_through
from smoe_np.packed import numbers_of


def written(*columns):
    """Bytes of columns, each given by its numbers and the widths of its classes."""
    writer = Writer(len(columns[0][0]))
    go_through(writer, [Column(np.array(numbers), widths) for numbers, widths in columns])
    return writer.data()


def read(data, K, *widths):
    columns = [Column(np.zeros(K, np.int64), of_column) for of_column in widths]
    reader = Reader(K, data)
    go_through(reader, columns)
    reader.check_end()
    return [column.values for column in columns]


@settings(max_examples=100)
@given(bits=st.integers(4, 40), K=st.integers(0, 3000), spread=st.floats(0, 1),
       seed=st.integers(0, 99))
def test_numbers_come_back(bits, K, spread, seed):
    generator = np.random.default_rng(seed)
    for widths in (even(min(bits, 24)), falling(bits)):
        most = int((1 << widths).sum()) - 1
        numbers = np.minimum(generator.random(K) ** (1 / (spread + 1e-3)) * most, most)
        numbers = numbers.astype(np.int64)
        numbers[:2] = [0, most][:K]
        data = written((numbers, widths), (numbers[::-1].copy(), widths))
        there, back = read(data, K, widths, widths)
        np.testing.assert_array_equal(there, numbers)
        np.testing.assert_array_equal(back, numbers[::-1])


def test_classes_cover_all_numbers_of_so_many_bits():
    for bits in range(4, 60):
        assert (1 << falling(bits)).sum() == 1 << bits
        assert falling(bits).max() <= 58
        if bits <= 24:
            assert (1 << even(bits)).sum() == 1 << bits


LANES = 0.25  # bits of a number that their states take at most


@pytest.mark.parametrize("K", [1000, 100_000])
def test_frequent_numbers_take_few_bits(K):
    generator = np.random.default_rng(0)
    for spread in (40, 100):
        numbers = np.clip(np.rint(generator.normal(512, spread, K)), 0, 1023).astype(np.int64)
        entropy = np.log2(spread * np.sqrt(2 * np.pi * np.e))
        bits = 8 * len(written((numbers, even(10)))) / K
        assert entropy < bits < entropy + LANES + (0.3 if K == 1000 else 0.03)


def test_even_numbers_take_hardly_more_bits_than_they_have():
    for bits in (4, 7, 10, 24):
        numbers = np.random.default_rng(bits).integers(0, 1 << bits, 5000)
        assert len(written((numbers, even(bits)))) * 8 / 5000 < bits + LANES + 0.04


def test_many_numbers_are_coded_in_many_lanes():
    K = 3 * MOST_LANES * 128
    numbers = np.random.default_rng(0).integers(0, 16, K)
    data = written((numbers, even(4)))
    assert Reader(K, data).lanes == MOST_LANES
    np.testing.assert_array_equal(read(data, K, even(4))[0], numbers)


def test_few_lanes_hold_the_same_one_by_one_as_in_arrays(monkeypatch):
    K = 2000
    numbers = np.random.default_rng(0).integers(0, 1 << 12, K)
    one_by_one = written((numbers, even(12)), (numbers, falling(14)))
    assert 1 < Reader(K, one_by_one).lanes <= coding.FEW_LANES
    monkeypatch.setattr(coding, "FEW_LANES", 0)
    assert written((numbers, even(12)), (numbers, falling(14))) == one_by_one


def test_what_was_cut_or_lengthened_is_refused():
    numbers = np.random.default_rng(0).integers(0, 1 << 12, 500)
    data = written((numbers, even(12)))
    for wrong in (b"", data[:3], data[:-2], data[:-1], data + b"\0\0", data + b"\0"):
        with pytest.raises(Damaged):
            read(wrong, 500, even(12))


@settings(max_examples=200)
@given(data=st.binary(min_size=0, max_size=200), K=st.integers(0, 300))
def test_any_bytes_are_read_as_numbers_in_their_range_or_refused(data, K):
    with contextlib.suppress(Damaged):
        for numbers, bits in zip(read(data, K, even(9), falling(30)), (9, 30)):
            assert (numbers >= 0).all()
            assert (numbers < 1 << bits).all()


# ---- whole numbers of kernels


@settings(max_examples=30)
@given(D=st.integers(1, 8), C=st.integers(1, 4), affine=st.booleans(), radial=st.booleans(),
       K=st.integers(1, 200), seed=st.integers(0, 99), data=st.data())
def test_numbers_of_kernels_come_back_sorted(D, C, affine, radial, K, seed, data):
    counts = numbers_of(D, C, affine, radial)
    bits = {kind: data.draw(st.integers(4, 24)) for kind in counts}
    generator = np.random.default_rng(seed)
    integers = {kind: generator.integers(0, 1 << bits[kind], (K, count))
                for kind, count in counts.items()}
    order = whole_numbers.order_along_curve(integers["centres"], bits["centres"])
    integers = {kind: numbers[order] for kind, numbers in integers.items()}
    found = whole_numbers.decoded(whole_numbers.coded(integers, bits, D), counts, bits, D, K)
    assert list(found) == list(integers)
    for kind, numbers in integers.items():
        np.testing.assert_array_equal(found[kind], numbers, err_msg=kind)


def test_neighbours_on_the_curve_are_near_each_other():
    across, down = np.meshgrid(np.arange(16), np.arange(16))
    centres = np.column_stack([down.ravel(), across.ravel()])
    centres = centres[whole_numbers.order_along_curve(centres, 4)]
    for size in (4, 16, 64):  # any so many in a row, from a multiple on, fill a square
        for square in centres.reshape(-1, size, 2):
            assert (np.ptp(square, axis=0) == np.sqrt(size) - 1).all()


def test_the_order_of_kernels_and_channels_alike_are_not_paid_for():
    generator, K = np.random.default_rng(0), 2000
    bits = {"centres": 12, "values": 10}
    centres = generator.integers(0, 1 << 12, (K, 2))
    centres = centres[whole_numbers.order_along_curve(centres, 12)]
    grey = generator.integers(0, 1 << 10, (K, 1))
    size = len(whole_numbers.coded({"centres": centres, "values": grey}, bits, 2))
    assert 8 * size / K < 24 - (np.log2(K) - 1.44) + 10 + 0.6
    rgb = np.clip(grey + generator.integers(-2, 3, (K, 3)), 0, 1023)
    assert 8 * len(whole_numbers.coded({"centres": centres, "values": rgb}, bits, 2)) / K < (
        8 * size / K + 2 * 5)


@settings(max_examples=100)
@given(bits=st.integers(4, 24), count=st.integers(0, 300), seed=st.integers(0, 99))
def test_plain_integers_of_any_number_of_bits_come_back(bits, count, seed):
    block, whole_numbers.BLOCK = whole_numbers.BLOCK, 64
    try:
        integers = np.random.default_rng(seed).integers(0, 1 << bits, count, np.uint32)
        data = whole_numbers.plain(integers, bits)
        assert len(data) == -(-count * bits // 8)
        np.testing.assert_array_equal(whole_numbers.from_plain(data, count, bits), integers)
    finally:
        whole_numbers.BLOCK = block
