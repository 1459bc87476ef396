"""``accelerate launch tools/train.py CONFIG a.b=value ...``: the same as ``videoclip train``."""

import sys

from videoclip.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
