"""Run sanitized kernels through all that engines ask of them, in buffers with forbidden margins.

    python sanitized_run.py BUILD [BUILD ...] [OPTIONS ...]

To be run by ``test_sanitizers.py`` with the sanitizer's runtime loaded. A build is named like
2d-3c-float32, or 2d-3c-float32-emulated, and told when it is done. An access beyond a buffer, read
or write, ends the process. With the build "overrun", kernels are made to do just that.
"""

import ctypes
import os
import sys
import weakref

import numpy as np
from helpers import picture, random_model
from kernel_runs import frame_settings, step_settings, train, turned_adam

from smoe_np.engine_kernels import KernelEngine
from smoe_np.launch_native import NativeLauncher

MARGIN = 512  # bytes before and after each buffer
PATTERN = 0xA5
runtime = ctypes.CDLL(None)
poison, unpoison = runtime.__asan_poison_memory_region, runtime.__asan_unpoison_memory_region
for function in (poison, unpoison):
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_size_t), None


class GuardedLauncher(NativeLauncher):
    """Launches sanitized kernels; margins of arrays can neither be read nor written."""

    options = ()
    guarded = []  # (all bytes, bytes of the array) of those that live

    def __init__(self, D, C, dtype):
        super().__init__(D, C, dtype, self.options)

    def zeros(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = np.full(size + 2 * MARGIN, PATTERN, np.uint8)
        inside = room[MARGIN : MARGIN + size]
        inside[...] = 0
        first, end = room.ctypes.data, room.ctypes.data + MARGIN + size
        poison(first, MARGIN)
        poison(end, MARGIN)
        weakref.finalize(room, unpoison, first, len(room))
        self.guarded.append((weakref.ref(room), size))
        return inside.view(dtype).reshape(shape)

    def array(self, array, dtype=None):
        array = np.ascontiguousarray(array, dtype)
        copy = self.zeros(array.shape, array.dtype)
        copy[...] = array
        return copy

    def check(self):
        """Nothing was written to a margin, by whatever is not sanitized either."""
        self.guarded[:] = [(room, size) for room, size in self.guarded if room() is not None]
        for reference, size in self.guarded:
            room = reference()
            unpoison(room.ctypes.data, len(room))
            margins = np.concatenate([room[:MARGIN], room[MARGIN + size :]])
            poison(room.ctypes.data, MARGIN)
            poison(room.ctypes.data + MARGIN + size, MARGIN)
            if (margins != PATTERN).any():
                sys.exit("a margin was written to")


class GuardedEngine(KernelEngine):
    """An engine of sanitized kernels."""

    name, launcher = "guarded", GuardedLauncher


SHAPES = {1: [(1,), (130,)], 2: [(1, 1), (13, 29), (7, 130)], 3: [(1, 1, 1), (9, 5, 6)]}


def look(engine, params):
    """Ask for all that can be looked at, twice: lists are there, the second time."""
    for _ in range(2):
        _, gradients = engine.loss_and_gradients(params)
        engine.loss(params)
        if (np.linalg.det(params.A) > 0).all():
            engine.weigh(params)
            engine.halve(params, np.eye(params.num_dims))
        owners = engine.gating(params)
        assert owners.min() >= 0
        assert owners.max() < params.num_kernels
        assert np.isfinite(engine.render(params)).all()
    engine.launch.check()
    return gradients


def ask(D, C, dtype, emulated):
    """All shapes, few and many pairs, too little room, batches, kernels that leave."""
    for number, shape in enumerate(SHAPES[D][: 1 if emulated else None]):  # which is slow
        target = picture(shape, C)
        models = (1, 0.1, 0), (7, 0.01, 0), (90, 0.3, 0), (90, 0.3, 0.2)
        for turn, (K, sigma, negative) in enumerate(models, number):
            params = random_model(K, K, D, C, sigma=sigma, negative=negative, anisotropy=4)
            look(GuardedEngine(shape, target, dtype, (None, 3)[turn % 2]), params)
        away = random_model(2, 5, D, C, corner=3.0)  # all beyond the picture
        look(GuardedEngine(shape, target, dtype), away)
        engine = GuardedEngine(shape, target, dtype, 2)
        for K in (3, 200, 20):  # of which the second needs longer lists than there are
            before = engine.capacity if K == 200 else 0
            look(engine, random_model(K, K, D, C, sigma=1.0))
            assert K != 200 or engine.capacity > before
        start = random_model(3, 60, D, C, sigma=0.1, dtype=np.dtype(dtype))
        model, _ = train(engine, start, step_settings(l1reg=2.0, lr_div=1, kernels=60), 12)
        assert model.num_kernels < 60
        engine.keep(np.arange(model.num_kernels) % 3 > 0)
        model = model.select(np.arange(model.num_kernels) % 3 > 0)
        look(engine, model)
        again = GuardedEngine(shape, target, dtype)
        again.restore(engine.state())
        look(again, model)
        again.succeed(np.append(np.arange(model.num_kernels), 0))
        model = model.select(np.append(np.arange(model.num_kernels), 0))
        look(again, train(again, model, frame_settings(), 5)[0])
        look(again, train(again, model, frame_settings(), 5, turned_adam(model))[0])
    shape = SHAPES[D][-1]
    engine = GuardedEngine(shape, picture(shape, C), dtype)
    look(engine, random_model(4, 500 if emulated else 3000, D, C, sigma=0.02))
    if emulated:
        return
    narrow = random_model(6, 5, D, C)
    narrow.A *= 1e160  # the square of which is no number, so that no kernel reaches any tile
    with np.errstate(over="ignore"):
        owners = engine.gating(narrow)
        assert np.isfinite(engine.render(narrow)).all()
    assert owners.min() >= 0
    assert owners.max() < 5
    few = GuardedEngine((3,) * D, picture((3,) * D, C), dtype)
    look(few, random_model(5, 3000, D, C, sigma=1.0))  # thousands of pairs of a tile


def run_over():
    """Draw into an array that is too small."""
    engine = GuardedEngine((9, 9), picture((9, 9)), "float32")
    params = random_model(1, 4)
    engine.render(params)
    image = engine.launch.zeros(80, np.float32)
    engine._run("render", engine.tiles, 64, *engine._tile, image)


if __name__ == "__main__":
    os.environ.pop("LD_PRELOAD", None)  # the compiler needs none of it
    options = tuple(text for text in sys.argv[1:] if text.startswith("-"))
    for build in sys.argv[1 : len(sys.argv) - len(options)]:
        GuardedLauncher.options = options
        if build == "overrun":
            run_over()
        else:
            D, C, dtype, *emulated = build.replace("d-", "-").replace("c-", "-").split("-")
            if emulated:
                GuardedLauncher.options += ("-DEMULATE_GPU",)
            ask(int(D), int(C), dtype, bool(emulated))
        print(f"{build} done", flush=True)
