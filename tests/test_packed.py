"""Packed models: what is stored, what is refused, and where bits go."""

import contextlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from smoe_np import SmoeParams, allocate_bits, allocation, load_params, packed, psnr, render
from smoe_np.params import NAMES

DATA = Path(__file__).parent / "data"
SHAPE = {1: (40,), 2: (20, 30), 3: (6, 9, 8)}


def model(K=12, D=2, C=1, **options):
    params = random_model(1, K, D, C, dtype=np.float32, **options)
    params.image_shape = SHAPE[D]
    return params


def written(params, path, bits=None):
    params.save(path, bits=bits)
    return load_params(path)


# ---- files


@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_16_bits_change_a_picture_by_nothing_that_can_be_seen(tmp_path, D, C):
    params = model(D=D, C=C)
    found = written(params, tmp_path / "model.smoe")
    assert found.image_shape == params.image_shape
    assert found.dtype == np.float32
    drawn = [render(each, SHAPE[D], backend="numpy") for each in (params, found)]
    assert psnr(*drawn) > 70


@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("D", [1, 2, 3])
def test_a_number_takes_its_bits_and_no_more(tmp_path, D, C, slope):
    each = 1 + D + D * (D + 1) // 2 + C * (1 + D * bool(slope))
    for K, bits in ((8, 16), (8, 11), (400, 5)):
        params = model(K, D, C, slope=slope)
        params.save(tmp_path / "model.smoe", bits=bits)
        size = (tmp_path / "model.smoe").stat().st_size
        kinds = 4 + (D > 1) + bool(slope)
        assert size <= packed.header_bytes(D, kinds) + K * each * bits // 8
        assert size == packed.packed_bytes(params.arrays(), bits)
    assert packed.header_bytes(D, kinds) < 100


@pytest.mark.parametrize("C", [1, 3])
def test_many_kernels_take_fewer_bits_than_their_numbers_have(tmp_path, C):
    model(1000, C=C).save(tmp_path / "model.smoe", bits=10)
    spared = 1000 * (np.log2(1000) - 1.44) / 8  # by their order, which means nothing
    assert (tmp_path / "model.smoe").stat().st_size < 1000 * (6 + 3 * C) * 10 / 8 - spared


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_both_versions_are_read_alike(tmp_path, monkeypatch, version):
    params = model(200)
    expected = written(params, tmp_path / "model.smoe", 12)
    monkeypatch.setattr(packed, "coded",
                        lambda *_: bytes(10**6) if version == 1 else b"")  # too long, too short
    params.save(tmp_path / "plain.smoe", bits=12)
    assert (tmp_path / "model.smoe").read_bytes()[4] == 2
    assert (tmp_path / "plain.smoe").read_bytes()[4] == 1
    found = load_params(tmp_path / "plain.smoe")
    for name in NAMES:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.image_shape == expected.image_shape


@pytest.mark.parametrize("version", [1, 2])
def test_files_written_long_ago_are_read(version):
    found = load_params(DATA / f"packed_{version}.smoe")
    expected = load_params(DATA / "packed_model.npz")
    assert (DATA / f"packed_{version}.smoe").read_bytes()[4] == version
    assert found.image_shape == expected.image_shape
    for name in NAMES:
        one, other = (np.sort(getattr(params, name), axis=0) for params in (found, expected))
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.005)
    pictures = (render(params, SHAPE[2], "numpy") for params in (found, expected))
    assert psnr(*pictures) > 45


def test_numbers_that_are_all_the_same_take_no_bits(tmp_path):
    params = model(300)
    params.pis[:] = 0.3
    params.nu_e[:] = 0.5
    params.gamma_e[:] = 0
    found = written(params, tmp_path / "model.smoe", 8)
    np.testing.assert_allclose(found.pis, 0.3, rtol=1e-6)
    assert (tmp_path / "model.smoe").stat().st_size < 300 * 5 + 60  # centres and steering


def test_radial_kernels_take_one_number_for_their_extent(tmp_path):
    given = model(8).arrays()
    alpha = np.linspace(3, 9, 8, dtype=np.float32)
    params = SmoeParams(**{**given, "A": alpha}, image_shape=SHAPE[2])
    found = written(params, tmp_path / "model.smoe")
    assert found.radial
    np.testing.assert_allclose(np.sort(found.A[:, 0, 0]), alpha, rtol=1e-4)
    assert (tmp_path / "model.smoe").stat().st_size <= packed.header_bytes(2, 5) + 8 * 7 * 2


def test_each_bit_halves_the_error(tmp_path):
    params = model(60)
    picture = render(params, SHAPE[2], dtype="float64")
    errors = [np.square(render(written(params, tmp_path / "m.smoe", bits), SHAPE[2],
                               dtype="float64") - picture).mean() for bits in (8, 11, 14)]
    for coarse, fine in zip(errors, errors[1:]):
        assert 64 / 4 < coarse / fine < 64 * 4


def test_a_kernel_far_away_does_not_make_the_others_coarse(tmp_path):
    params = model(30)
    params.musX[0] = 1e5
    params.nu_e[1] = -300
    found = written(params, tmp_path / "far.smoe").musX
    far = np.abs(found).max(axis=1) > 10
    np.testing.assert_allclose(found[far], [[1e5, 1e5]], rtol=1e-3)
    near = np.sort(params.musX[1:], axis=0)
    np.testing.assert_allclose(np.sort(found[~far], axis=0), near, atol=5e-4)


@pytest.mark.parametrize("K", [0, 1])
def test_there_may_be_one_kernel_or_none(tmp_path, K):
    params = model(4).select(np.arange(K))
    found = written(params, tmp_path / "model.smoe")
    assert found.num_kernels == K
    for name in NAMES:
        np.testing.assert_allclose(getattr(found, name), getattr(params, name), rtol=1e-5)


def test_the_size_of_the_picture_may_be_unknown(tmp_path):
    params = model()
    params.image_shape = None
    assert written(params, tmp_path / "model.smoe").image_shape is None


@settings(max_examples=100)
@given(st.floats(-1e9, 1e9))
def test_bending_is_undone_by_straightening(value):
    bent = packed._bent(np.array([value]))
    np.testing.assert_allclose(packed._straight(bent), value, rtol=1e-12)
    assert abs(value) > 1 or bent[0] == value


# ---- what is refused


@pytest.mark.parametrize(("bits", "error", "match"), [
    (3, ValueError, "bits must be 4 to 24, got 3 for weights"),
    (25, ValueError, "bits must be 4 to 24, got 25"),
    (3.9, ValueError, "bits must be 4 to 24, got 3.9"),
    ("9", TypeError, "bits must be numbers, got '9' for weights"),
    (True, TypeError, "bits must be numbers, got True"),
    (math.nan, ValueError, "bits must be 4 to 24, got nan"),
    ({"weights": 9}, ValueError, "a dict without .*centres.*slopes"),
    ({**dict.fromkeys(packed.KINDS, 9), "gates": 9}, ValueError, r"a dict with \['gates'\]"),
])
def test_bits_are_checked(tmp_path, bits, error, match):
    with pytest.raises(error, match=match):
        model().save(tmp_path / "model.smoe", bits=bits)
    assert not (tmp_path / "model.smoe").exists()


@settings(max_examples=60)
@given(bits=st.floats(4, 24), seed=st.integers(0, 99), low=st.floats(-9, 9))
def test_numbers_are_rounded_to_as_many_levels_as_bits_say(bits, seed, low):
    numbers = low + 3 * np.random.default_rng(seed).random((50, 2))
    found = packed.rounded({"weights": numbers}, {"weights": bits})["weights"]
    step = np.ptp(numbers) / (round(2**bits) - 1)
    assert np.abs(found - numbers).max() < 0.501 * step + 1e-5
    assert len(np.unique(found)) <= round(2**bits)
    again = packed.rounded({"weights": found}, {"weights": bits})["weights"]
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_fractions_of_bits_take_fractions_of_bytes_and_come_back(tmp_path):
    params, sizes = model(400, C=3), []
    for bits in (7, 7.25, 7.5, 7.75, 8):
        first = written(params, tmp_path / "first.smoe", bits)
        _, meta = packed.load_packed(tmp_path / "first.smoe")
        assert set(meta["bits"].values()) == {bits}
        np.testing.assert_allclose(render(written(first, tmp_path / "second.smoe", bits), SHAPE[2]),
                                   render(first, SHAPE[2]), atol=1e-3)
        sizes.append((tmp_path / "first.smoe").stat().st_size)
    steps = np.diff(sizes)
    assert (steps > 0.15 * steps.sum()).all()


def test_numbers_at_the_ends_of_what_can_be_stored_are_read_again(tmp_path):
    params = model(200)
    params.pis[:2] = np.exp([-80, 80])
    for bits in (4.1, 9.5, 11):
        again = written(params, tmp_path / "m.smoe", bits)
        assert np.log(again.pis).max() == pytest.approx(80, abs=1e-3)
        assert np.log(again.pis).min() == pytest.approx(-80, abs=1e-3)


def test_bits_are_refused_where_they_mean_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"bits applies to \.smoe files only, .*m\.npz"):
        model().save(tmp_path / "m.npz", bits=9)


def test_what_has_no_logarithm_is_refused(tmp_path):
    for name, match in (("pis", "weight 0 or below.*select"), ("A", "diagonal is not above 0")):
        params = model()
        getattr(params, name)[:1] *= -1
        with pytest.raises(ValueError, match=match):
            params.save(tmp_path / "model.smoe")
    params = model().astype(np.float64)
    params.pis[0] = 1e-300
    with pytest.raises(ValueError, match="params has weights beyond what a packed file can hold"):
        params.save(tmp_path / "model.smoe")


def test_so_many_dimensions_that_a_small_file_would_fill_the_memory_are_refused(tmp_path):
    params = random_model(0, 2, 9, dtype=np.float32)
    with pytest.raises(ValueError, match="9 dimensions and 1 channels, and a packed file holds 8"):
        params.save(tmp_path / "model.smoe")
    numbers = packed.numbers_of(200, 1, False, True)
    ranges = b"".join(struct.pack("<Bff", 4, 0, 1) for _ in numbers)
    data = struct.pack("<4sBBBBBI", b"SMoE", 1, 200, 1, 0, 1, 100) + bytes(4 * 200) + ranges
    data += b"".join(bytes(-(-100 * count * 4 // 8)) for count in numbers.values())
    (tmp_path / "forged.smoe").write_bytes(data + struct.pack("<I", zlib.crc32(data)))
    with pytest.raises(ValueError, match="cut off or damaged"):
        load_params(tmp_path / "forged.smoe")


def test_a_file_that_lost_or_changed_anything_is_refused(tmp_path):
    path = tmp_path / "model.smoe"
    model().save(path)
    data = path.read_bytes()
    for length in (5, 11, 15, 40, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="model.smoe' is cut off or damaged"):
            load_params(path)
    for at in range(5, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1:])
        with pytest.raises(ValueError, match="cut off or damaged"):
            load_params(path)
    path.write_bytes(data[:4] + b"\3" + data[5:])
    with pytest.raises(ValueError, match="of version 3, and this reads 1 and 2"):
        load_params(path)


def test_a_small_file_that_claims_many_kernels_is_refused_at_once(tmp_path, monkeypatch):
    path = tmp_path / "model.smoe"
    model(200).save(path, bits=6)
    data = bytearray(path.read_bytes()[:-4])
    assert data[4] == 2
    struct.pack_into("<I", data, 9, 10**9)
    path.write_bytes(bytes(data) + struct.pack("<I", zlib.crc32(data)))
    monkeypatch.setattr(packed, "decoded", lambda *_: pytest.fail("memory for a billion kernels"))
    with pytest.raises(ValueError, match="cut off or damaged"):
        load_params(path)


@settings(max_examples=120)
@given(data=st.data(), K=st.sampled_from([3, 150]))
def test_a_forged_file_is_read_as_a_model_or_refused(tmp_path_factory, data, K):
    path = tmp_path_factory.mktemp("forged") / "model.smoe"
    model(K).save(path, bits=6)
    content = bytearray(path.read_bytes()[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(5, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content) + struct.pack("<I", zlib.crc32(content)))
    with contextlib.suppress(ValueError):
        params = load_params(path)
        assert all(np.isfinite(array).all() for array in params.arrays().values())


# ---- where bits go


def test_bits_are_used_up_and_not_exceeded():
    for K, D, C in ((1, 1, 1), (30, 2, 1), (12, 2, 3), (9, 3, 1)):
        params = model(K, D, C)
        counts = {kind: numbers.shape[1] for kind, numbers in
                  packed.kinds_of(params.arrays()).items()}
        for average in (4, 9.3, 16, 24):
            bits = allocate_bits(params, average, backend="numpy")
            left = average * sum(counts.values()) - sum(counts[kind] * bits[kind] for kind in bits)
            assert 0 <= left < max(counts.values())


def test_bits_that_are_shared_out_do_better_than_the_same_for_all(tmp_path):
    params = model(80, anisotropy=4.0, sigma=0.05)
    picture = render(params, SHAPE[2])
    alike = written(params, tmp_path / "a.smoe", 9)
    shared = written(params, tmp_path / "b.smoe", allocate_bits(params, 9))
    assert psnr(picture, render(shared, SHAPE[2])) > psnr(picture, render(alike, SHAPE[2])) + 2
    assert (tmp_path / "b.smoe").stat().st_size <= (tmp_path / "a.smoe").stat().st_size


def test_a_few_pixels_of_large_errors_need_not_decide_where_bits_go(monkeypatch):
    errors = dict.fromkeys(packed.KINDS, 1e-6)
    drawn = []

    def render(*_):  # first the exact picture, then one for each kind: of centres one pixel is off
        picture = np.full(1000, errors[packed.KINDS[len(drawn) - 1]] if drawn else 0.0)
        if drawn and packed.KINDS[len(drawn) - 1] == "centres":
            picture[3] = 1.0
        drawn.append(picture)
        return picture

    monkeypatch.setattr(allocation, "render", render)
    params = model()
    decided = allocate_bits(params, 9)
    assert decided["centres"] > max(bits for kind, bits in decided.items() if kind != "centres")
    drawn.clear()
    shared = allocate_bits(params, 9, outliers=0.001)
    assert max(shared.values()) - min(shared.values()) <= 1
    for wrong, match in ((1, "outliers must be below 1, got 1"), (-1, "outliers must be 0 or")):
        with pytest.raises(ValueError, match=match):
            allocate_bits(params, 9, outliers=wrong)


@pytest.mark.parametrize("average", [3.9, 25, -1])
def test_an_average_that_no_file_has_is_refused(average):
    with pytest.raises(ValueError, match="average must be"):
        allocate_bits(model(), average)


def test_without_the_size_of_a_picture_one_must_be_given():
    params = model()
    params.image_shape = None
    with pytest.raises(ValueError, match="does not hold the size of its picture; give shape"):
        allocate_bits(params, 9)
    assert allocate_bits(params, 9, (20, 30)) == allocate_bits(model(), 9)


def test_a_model_that_was_rounded_before_gets_bits_for_all_its_kinds(tmp_path):
    params = model(80, sigma=0.05)
    for bits in (4, 6, 12):  # 2ᵇ − 1 of these divide one another
        again = written(params, tmp_path / "model.smoe", bits)
        shared, usual = (allocate_bits(one, 10, backend="numpy") for one in (again, params))
        assert max(abs(shared[kind] - usual[kind]) for kind in usual) <= 2, bits
