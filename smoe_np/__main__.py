"""``python -m smoe_np`` is the command ``smoe``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
