"""``train_model.py`` as in tf-smoe, with its options; a sheet shows the result.

    python examples/train_model.py -i PICTURE -r RESULTS -n 1000 -v 100 -k 12 ...

It runs ``smoe train``, which takes every option of that script (-i -r -n -v -k -p -reg -lr -b -c
-d -m -dp -dg -ra -q, and the long names with _ or -); ``smoe train --help`` lists them all. Without
-i it uses the cameraman, without -r the folder ``results``.
"""

import itertools
import os
import sys
from pathlib import Path

from fit_picture import SMALL

from smoe_np.cli import main


def value_of(arguments, *names):
    """The value given for an option, or None if it is not given."""
    for argument, following in itertools.pairwise([*arguments, None]):
        name, equals, value = argument.partition("=")
        if (name.replace("_", "-") if name.startswith("--") else name) in names:
            return value if equals else following
    return None


if __name__ == "__main__":
    arguments = sys.argv[1:]
    defaults = {
        ("-i", "--image-path"): str(Path(__file__).parent / "pictures" / "camera.png"),
        ("-r", "--results-path"): "results",
        ("-n", "--iterations"): "20" if SMALL else "1000",
    }
    for names, default in defaults.items():
        # a checkpoint already holds how many iterations its run has left
        if value_of(arguments, *names) is None and not (
                names[0] == "-n" and value_of(arguments, "-c", "--checkpoint-path")):
            arguments += [names[0], default]

    status = main(["train", *arguments])
    if status == 0 and not {"-h", "--help", "-q", "--quiet"} & set(arguments):
        results = value_of(arguments, "-r", "--results-path")
        print(f"what has come of it: {os.path.join(results, 'sheet.png')}")
    sys.exit(status)
