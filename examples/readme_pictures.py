"""Run the examples whose pictures the README shows, and save the pictures in pictures/.

    python examples/readme_pictures.py [FOLDER]
"""

import os
import runpy
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
WIDTH, QUALITY = 1300, 85  # largest side in pixels; JPEG quality
EXAMPLES = ("fit_picture", "few_bytes", "zoom", "sparsify", "denoise")

if __name__ == "__main__":
    is_trial = os.environ.get("SMOE_EXAMPLE_SIZE") == "small"  # must replace no picture
    usual = tempfile.mkdtemp() if is_trial else HERE / "pictures"
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else usual).resolve()
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for name in EXAMPLES:
            sys.argv = [name]
            runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
            picture = Image.open(f"{name}.png").convert("RGB")
            picture.thumbnail((WIDTH, WIDTH))
            picture.save(folder / f"{name}.jpg", quality=QUALITY, optimize=True)
        os.chdir(HERE)
    print(f"{', '.join(EXAMPLES)}: {folder}")
