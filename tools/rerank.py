"""``python tools/rerank.py ...``: the same as ``videoclip rerank``."""

import sys

from videoclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["rerank", *sys.argv[1:]]))
