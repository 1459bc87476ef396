"""``python tools/evaluate.py ...``: the same as ``videoclip evaluate``."""

import sys

from videoclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
