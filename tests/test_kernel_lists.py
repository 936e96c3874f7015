"""The lists that kernels build: no pair that matters is left out, whatever the kernels are like."""

import itertools

import numpy as np
import pytest
from helpers import picture, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_runs import EmulatedEngine

from smoe_np import dense
from smoe_np.engine_native import NativeEngine
from smoe_np.kernel_buffers import WORDS

pytestmark = pytest.mark.skipif(NativeEngine.why_not() is not None,
                                reason=str(NativeEngine.why_not()))
SHAPES = {1: (640,), 2: (75, 130), 3: (17, 22, 30)}
TAU = 12.0


def gates_left_out(engine, params):
    """Of all pairs that are not listed, the largest gate at a pixel, by the winner's there."""
    listed = np.zeros((engine.tiles, params.num_kernels), bool)
    counts = np.diff(engine.start)
    listed[np.repeat(np.arange(engine.tiles), counts), engine.list[: counts.sum()]] = True
    tiles, gates = log_gates(engine, params)
    behind = gates - gates.max(axis=1, keepdims=True)
    return behind[~listed[tiles]].max(initial=-np.inf)


def log_gates(engine, params):
    """The tile of each pixel, and the log-gate of each kernel there."""
    D, longest = len(engine.shape), max(engine.shape)
    points = np.stack(np.meshgrid(*map(np.arange, engine.shape), indexing="ij"), axis=-1)
    tiles = np.ravel_multi_index(tuple(np.moveaxis(points // engine.grid.tile, -1, 0)),
                                 engine.grid.counts).ravel()
    points = (points.reshape(-1, D) + 0.5) / longest
    z = (points - params.musX[:, None]) @ params.A
    weight = np.log(params.pis) + np.log(np.abs(np.diagonal(params.A, axis1=1, axis2=2))).sum(1)
    return tiles, weight - 0.5 * np.einsum("kpd,kpd->pk", z, z)


def drawn_model(data, D, K=None):
    """A model whose kernels are as hypothesis wants them."""
    return random_model(
        data.draw(st.integers(0, 10**6)), K or data.draw(st.sampled_from([1, 7, 60, 300])), D,
        sigma=data.draw(st.sampled_from([1e-4, 3e-3, 0.02, 0.1, 1.0])),
        anisotropy=data.draw(st.sampled_from([1, 30, 1e3, 1e5])),
        spread=data.draw(st.sampled_from([1.0, 30.0])),
        corner=data.draw(st.sampled_from([0.0, -15.0])))


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
@settings(max_examples=25)
@given(data=st.data())
def test_a_pair_that_matters_is_listed(Engine, data):
    D = data.draw(st.sampled_from([1, 2, 2, 3]))
    params = drawn_model(data, D)
    engine = Engine(SHAPES[D], picture(SHAPES[D]))
    engine.render(params)
    assert engine.tau == TAU
    assert gates_left_out(engine, params) < -TAU


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
@settings(max_examples=15)
@given(data=st.data())
def test_what_tiles_remember_of_another_model_leaves_no_pair_out(Engine, data):
    D = data.draw(st.sampled_from([1, 2, 2, 3]))
    before = drawn_model(data, D)
    after = drawn_model(data, D, before.num_kernels)
    engine = Engine(SHAPES[D], picture(SHAPES[D]))
    engine.render(before)
    engine.control[WORDS.STALE] = 1
    engine.render(after)
    assert (engine.remembered >= 0).all()
    assert gates_left_out(engine, after) < -TAU


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
@pytest.mark.parametrize("D", SHAPES)
def test_what_is_recalled_of_a_box_is_a_lower_bound_of_its_winners_there(Engine, D):
    params = random_model(4, 100, D, sigma=0.05)
    engine = Engine(SHAPES[D])
    engine.render(params)
    assert (engine.recalled < -1e36).all()  # there is nothing to remember
    engine._build_lists(engine._build)
    tiles, gates = log_gates(engine, params)
    best = np.full(engine.tiles, np.inf)
    np.minimum.at(best, tiles, gates.max(axis=1) + D * np.log(1 / max(engine.shape)))
    place, first = np.stack(np.unravel_index(np.arange(engine.tiles), engine.grid.counts)), 0
    for level, _, boxes in reversed(engine.levels[:-1]):
        box = np.ravel_multi_index(tuple(place >> level), -(-np.array(engine.grid.counts) >> level))
        least = np.full(boxes, np.inf)
        np.minimum.at(least, box, best)
        recalled = engine.recalled[first : first + boxes]
        assert (recalled < least + 1e-9).all()
        assert np.median(least - recalled) < 40  # of no use if it were much less
        first += boxes
    assert first == len(engine.recalled)


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_what_tiles_remember_makes_the_lists_of_boxes_shorter_and_none_of_a_tile_longer(Engine):
    params = random_model(1, 500, sigma=0.01)
    engine = Engine((96, 144))
    engine.render(params)
    counts = np.diff(engine.start)
    between = sum(int(start[-1]) for level, start, _ in engine.levels if level)
    engine._build_lists(engine._build)
    assert (np.diff(engine.start) <= counts).all()
    assert gates_left_out(engine, params) < -TAU
    assert sum(int(start[-1]) for level, start, _ in engine.levels if level) < 0.7 * between


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_a_restored_engine_remembers_the_same(Engine):
    before, after = (random_model(seed, 300, sigma=0.05) for seed in (1, 2))
    engine, other = Engine(SHAPES[2]), Engine(SHAPES[2])
    engine.render(before)
    engine.render(after)
    other._start(1)
    other.restore(engine.state())
    for name in ("remembered", "recalled", "start"):
        np.testing.assert_array_equal(getattr(other, name), getattr(engine, name))
    assert (engine.recalled > -1e30).all()
    pairs = int(engine.start[-1])
    np.testing.assert_array_equal(other.list[:pairs], engine.list[:pairs])


@pytest.mark.parametrize("sharpness", [1e9, 1e18, 1e30])
def test_kernels_beyond_the_numbers_of_float_are_listed_where_they_are(sharpness):
    params = random_model(3, 40, sigma=0.05)
    params.A[:5] *= sharpness / 20
    params.pis[:5] = 1.0
    engine = NativeEngine(SHAPES[2], picture(SHAPES[2]))
    engine.render(params)
    tile = np.ravel_multi_index(
        tuple((params.musX[:5] * max(SHAPES[2]) // engine.grid.tile).astype(int).T),
        engine.grid.counts, mode="clip")
    inside = (params.musX[:5] * max(SHAPES[2]) < SHAPES[2]).all(axis=1)
    assert inside.any()
    for kernel, where in itertools.compress(enumerate(tile), inside):
        tiles_of_kernel = np.searchsorted(engine.start, np.flatnonzero(
            engine.list[: engine.start[-1]] == kernel), side="right") - 1
        assert where in tiles_of_kernel
        assert len(tiles_of_kernel) < 10  # and nowhere else


@pytest.mark.parametrize("shape", [(4097, 8), (8, 4097)])
@pytest.mark.parametrize("off", [1.25e-4, 1.5e-4])
def test_a_sharp_kernel_in_a_last_tile_of_one_pixel_is_listed(shape, off):
    across = shape.index(4097)
    params = random_model(0, 2, dtype=np.float64)
    params.pis[:] = 1.0, 1e-60
    params.musX[0] = 3.5 / 4097
    params.musX[0, across] = (4097 - 0.5 + off) / 4097
    params.A[0] = 1.2e5 * 4097 * np.eye(2)
    params.A[1] = np.eye(2)
    engine = NativeEngine(shape)
    engine.render(params)
    assert 0 in engine.list[engine.start[-2] : engine.start[-1]]


def built_with_fast_kernels(Engine, fast, params, target):
    """An engine whose lists were built when so many kernels moved by 5 σ a step."""
    engine = Engine(target.shape[:-1], target)
    engine.loss(params)
    engine.rates[:fast, 0] = 5.0
    engine.control[WORDS.STALE], engine.control[WORDS.AGE] = 1, 1
    engine.loss(params)
    return engine


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
@pytest.mark.parametrize("fast", [1, WORDS.MOST_FAST])
def test_lists_hold_whatever_a_few_fast_kernels_do(Engine, fast):
    params = random_model(4, 60, sigma=0.05, dtype=np.float32)
    target = picture(SHAPES[2]).astype(np.float32)
    engine = built_with_fast_kernels(Engine, fast, params, target)
    builds = engine.builds
    params.musX[:fast] += 0.4
    params.A[:fast] *= -0.1
    params.pis[:fast] *= 50
    engine.list_life = 0
    assert engine.loss(params) == pytest.approx(dense.loss(params, target), rel=1e-5)
    assert engine.builds == builds
    params.musX[fast] += 0.4  # nor does it outrun what the others may
    assert engine.loss(params) == pytest.approx(dense.loss(params, target), rel=1e-5)
    assert engine.builds == builds + 1


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_many_fast_kernels_are_not_listed_everywhere(Engine):
    params = random_model(4, 200, sigma=0.02, dtype=np.float32)
    params.pis[: WORDS.MOST_FAST] *= 30  # they are the winners round them
    target = picture(SHAPES[2]).astype(np.float32)
    few, many = (built_with_fast_kernels(Engine, WORDS.MOST_FAST + n, params, target)
                 for n in (0, 1))
    assert (few.anchors[:, -3] == WORDS.BOUNDLESS).sum() == WORDS.MOST_FAST
    slow = built_with_fast_kernels(Engine, 0, params, target)
    assert few.pairs_per_pixel < slow.pairs_per_pixel + WORDS.MOST_FAST + 4
    assert many.anchors[:, -3].max() < 1


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_no_lists_are_built_after_the_last_step(Engine):
    engine = Engine(SHAPES[2], picture(SHAPES[2]))
    engine.render(random_model(1, 100, sigma=0.05))
    for steps, builds in ((5, 1), (4, 2)):
        engine.control[WORDS.STALE], engine.control[WORDS.TARGET] = 1, 5
        engine.control[WORDS.STEP] = steps
        engine.launch.run(engine._build)
        assert engine.control[WORDS.BUILDS] == builds
        assert engine.control[WORDS.STALE] == 2 - builds


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_a_build_that_was_left_halfway_does_no_harm(Engine):
    params = random_model(1, 100, sigma=0.05)
    engine = Engine(SHAPES[2], picture(SHAPES[2]))
    loss, gradients = engine.loss_and_gradients(params)
    engine.counters[...] = 1  # as between two launches
    engine.control[WORDS.STALE] = 1
    again, others = engine.loss_and_gradients(params)
    assert again == loss
    for name, array in gradients.arrays().items():
        np.testing.assert_array_equal(getattr(others, name), array)


def test_without_memory_for_longer_lists_the_shorter_ones_stay(monkeypatch):
    few, many = (random_model(0, 300, sigma=sigma, dtype=np.float32) for sigma in (0.01, 10.0))
    engine = NativeEngine((200, 200), picture((200, 200)))
    engine.render(few)
    capacity = engine.capacity
    zeros = engine.launch.zeros

    def no_room(shape, dtype):
        if shape == (2, engine.between) or np.ndim(shape) == 0:
            return zeros(shape, dtype)
        raise MemoryError

    monkeypatch.setattr(engine.launch, "zeros", no_room)
    with pytest.raises(MemoryError):
        engine._make_lists(2 * capacity, 2 * engine.between, 2 * engine.most_rows)
    assert engine.capacity == capacity == len(engine.list)
    assert engine.between == engine.lists_between.shape[1]
    assert engine.most_rows == len(engine.kernel_of_row)


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_the_lists_of_kernels_and_of_rows_tell_of_the_same(Engine):
    params = random_model(1, 300, sigma=0.05)
    engine = Engine(SHAPES[2], picture(SHAPES[2]))
    engine.render(params)
    assert len(engine.counters) == (1 if Engine is EmulatedEngine else engine.launch.counter_sets)
    assert not engine.counters.any()
    rows = int(engine.first_row[-1])
    assert rows > 300
    for kernel, (first, last) in enumerate(itertools.pairwise(engine.first_of_kernel)):
        of_kernel = engine.rows_of_kernels[first:last]
        assert (np.diff(of_kernel) > 0).all()
        assert (engine.kernel_of_row[of_kernel] == kernel).all()
    assert engine.first_of_kernel[-1] == rows
    for first, last in itertools.pairwise(engine.start):
        assert (np.diff(engine.list[first:last]) > 0).all()
    assert engine.control[WORDS.BUILDS] == 1


@pytest.mark.parametrize("K", [1, 300])
@pytest.mark.parametrize("shape", [(5, 9), (75, 130), (500, 400), (640,), (17, 22, 30)])
def test_each_kernel_of_a_patch_has_one_row_there_and_no_other_has(shape, K):
    D = len(shape)
    engine = NativeEngine(shape, picture(shape))
    engine.loss_and_gradients(random_model(1, K, D, sigma=0.05))
    side, counts = 1 << engine.patch_level, np.array(engine.grid.counts)
    assert side > 1
    tiles = np.stack(np.unravel_index(np.arange(engine.tiles), engine.grid.counts))
    patch = np.ravel_multi_index(tuple(tiles // side), -(-counts // side))
    patch_of_pair = np.repeat(patch, np.diff(engine.start))
    pairs = engine.start[-1]
    row = engine.first_row[patch_of_pair] + engine.row_of_pair[:pairs]
    assert (row < engine.first_row[patch_of_pair + 1]).all()
    np.testing.assert_array_equal(engine.kernel_of_row[row], engine.list[:pairs])
    rows = np.unique(np.stack([patch_of_pair, engine.list[:pairs]]), axis=1).shape[1]
    assert len(np.unique(row)) == rows == engine.first_row[-1]


def test_where_patches_are_tiles_each_pair_has_a_row():
    engine = EmulatedEngine(SHAPES[2], picture(SHAPES[2]))
    engine.render(random_model(1, 300, sigma=0.05))
    assert engine.patches == engine.tiles
    assert engine.first_row is engine.start
    assert engine.kernel_of_row is engine.list


def test_lists_of_rows_that_are_too_short_are_lengthened():
    few, many = (random_model(0, 300, sigma=sigma, dtype=np.float64) for sigma in (0.01, 10.0))
    engine, other = (NativeEngine((200, 200), picture((200, 200)), "float64") for _ in range(2))
    engine.loss_and_gradients(few)
    engine._make_lists(1 << 20, 1 << 20, 1000)
    loss, gradients = engine.loss_and_gradients(many)
    assert 1000 < engine.first_row[-1] <= engine.most_rows == len(engine.kernel_of_row)
    again, others = other.loss_and_gradients(many)
    assert again == loss
    for name, array in gradients.arrays().items():
        np.testing.assert_array_equal(getattr(others, name), array)


@pytest.mark.parametrize("Engine", [NativeEngine, EmulatedEngine])
def test_boxes_that_are_shared_among_blocks_have_the_same_lists(monkeypatch, Engine):
    params = random_model(5, 300, sigma=0.02, anisotropy=10)
    found, between = [], []
    for least in (1000, 40):  # kernels of a share: none is shared, and in seven
        monkeypatch.setattr(Engine.launcher, "least_share", least)
        engine = Engine((24, 270))
        engine.render(params)
        lengths = [len(start) - 1 for _, start, _ in engine.levels]
        boxes = [boxes for _, _, boxes in engine.levels]
        times = 1 if least == 1000 else 7
        assert lengths == [times * n if level > 3 else n
                           for n, (level, _, _) in zip(boxes, engine.levels)]
        engine._build_lists(engine._build)
        found.append((engine.start.copy(), engine.list[: engine.start[-1]].copy()))
        between.append([int(start[-1]) for _, start, _ in engine.levels])
        assert gates_left_out(engine, params) < -TAU
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert between[0] == between[1]
