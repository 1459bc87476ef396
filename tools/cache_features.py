"""``python tools/cache_features.py ...``: the same as ``videoclip cache``."""

import sys

from videoclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["cache", *sys.argv[1:]]))
