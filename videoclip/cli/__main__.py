"""``python -m videoclip.cli``: the same as ``videoclip``."""

import sys

from videoclip.cli import main

sys.exit(main())
