"""Train on arrays on the GPU, and time an iteration with every backend that works here.

    python examples/gpu.py [PICTURE] [KERNELS_PER_DIM]

For a picture that is a CuPy array, the model, its pictures and its gradients are arrays on the GPU
too, ready for other GPU code. Without a GPU, one line says why, and the same runs on the CPU.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
from fit_picture import SMALL, chosen_picture

import smoe_np
from smoe_np.backend import to_numpy, why_no_gpu
from smoe_np.engine import ENGINES


def milliseconds(picture, kernels_per_dim, backend, iterations):
    """Milliseconds per iteration, after a warm-up that compiles everything."""
    smoe = smoe_np.Smoe(picture, kernels_per_dim, backend=backend)
    smoe.train(5)
    before = smoe.history[-1].seconds
    smoe.train(iterations, val_iter=iterations)
    return 1e3 * (smoe.history[-1].seconds - before) / iterations


if __name__ == "__main__":
    picture = smoe_np.pixels.as_float(chosen_picture())
    kernels_per_dim = int(sys.argv[2]) if len(sys.argv) > 2 else 8 if SMALL else 32
    why_not = why_no_gpu()
    if why_not is None:
        import cupy as xp
    else:
        print(f"no GPU: {why_not}; the same follows on the CPU")
        xp = np

    image = xp.asarray(picture)
    smoe = smoe_np.Smoe(image, kernels_per_dim)  # backend="auto": the fastest that works
    smoe.train(20 if SMALL else 300)
    drawn = smoe.reconstruction
    print(f"{smoe.engine.name}: {smoe.params}, arrays of {type(smoe.params.musX).__module__}")
    # computed where the array lies, without a copy to or from the GPU
    mse = float(xp.mean((drawn - image) ** 2))
    print(f"{-10 * np.log10(mse):.2f} dB")

    times = {}
    for name, engine in ENGINES.items():
        reason = engine.why_not(len(smoe.shape), smoe.channels)
        if reason is None:
            times[name] = milliseconds(picture, kernels_per_dim, name, 10 if SMALL else 100)
            print(f"{name:7} {times[name]:7.2f} ms an iteration")
        elif name != "cupy":
            print(f"{name:7} cannot be used: {reason}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    left.imshow(to_numpy(drawn), cmap="gray", vmin=0, vmax=1)
    left.set(title=f"{smoe.params.num_kernels} kernels, backend {smoe.engine.name}",
             xticks=[], yticks=[])
    bars = right.barh(list(times), list(times.values()), color="steelblue")
    right.bar_label(bars, [f"{ms:.2f} ms" for ms in times.values()], padding=3)
    right.set(title="time of an iteration", xlabel="ms")
    right.margins(x=0.2)
    figure.savefig("gpu.png", dpi=110)
    print("the picture, and the times: gpu.png")
