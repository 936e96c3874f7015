"""Make parity.npz of runs of tf-smoe: python tests/data/make_parity.py FOLDER

The folder holds camera128.png and, for each run, NAME.json (its settings) and NAME.npz: the
parameters at the start (init_*) and at the end (final_*), and the logs of every iteration. Of the
final picture and gating map only every fifth pixel is kept, and those that tf-smoe draws black or
where hardly a kernel reaches, which is where its floor under the sum of gates acts.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

CASES = ["default", "batches", "clip", "bandwidth", "nogammas", "nopis", "radial", "sparse"]
NAMES = ["pis", "musX", "A", "gamma_e", "nu_e"]


def sum_of_gates(params, n):
    """Σ π |det A| exp(−½‖Aᵀ(x − μ)‖²) of the kernels that are left, at n × n pixels."""
    axis = (np.arange(n) + 0.5) / n
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    z = np.einsum("kij,nki->nkj", params["A"], x - params["musX"])
    weight = np.maximum(params["pis"], 0) * np.abs(np.linalg.det(params["A"]))
    return (weight * np.exp(-0.5 * (z**2).sum(2))).sum(1)


def main(folder):
    """Write parity.npz and sparse_params.pkl beside this script."""
    here = pathlib.Path(__file__).parent
    picture = np.array(Image.open(folder / "camera128.png"))
    kept, settings = {"picture": picture}, {}
    for case in CASES:
        settings[case] = json.loads((folder / f"{case}.json").read_text())
        run = np.load(folder / f"{case}.npz")
        for name in NAMES:
            for when in ("init", "final"):
                kept[f"{case}_{when}_{name}"] = run[f"{when}_{name}"]
        for name in ("log_mse", "log_loss", "log_num_pis"):
            kept[f"{case}_{name}"] = run[name]
        final = {name: run[f"final_{name}"].astype(float) for name in NAMES}
        if final["A"].ndim == 1:
            final["A"] = final["A"][:, None, None] * np.eye(2)
        image = run["final_reconstruction"].ravel()
        chosen = (np.arange(image.size) % 5 == 0) | (image == 0)
        chosen |= sum_of_gates(final, len(picture)) < 1e-8
        kept[f"{case}_pixels"] = np.flatnonzero(chosen).astype(np.uint16)
        kept[f"{case}_reconstruction"] = image[chosen]
        kept[f"{case}_argmax"] = run["final_argmax"].ravel()[chosen].astype(np.uint16)
    kept["settings"] = np.frombuffer(json.dumps(settings).encode(), np.uint8)
    np.savez_compressed(here / "parity.npz", **kept)
    shutil.copyfile(folder / "sparse_params.pkl", here / "sparse_params.pkl")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
