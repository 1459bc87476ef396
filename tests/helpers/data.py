"""Where the data outside the repository lie: videos, annotations and features, and recordings of the authors' code."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("VIDEOCLIP_DATA") or Path(__file__).parents[3] / "shared" / "data")
VIDEOS = Path(__file__).parents[1] / "data" / "videos"  # in the repository; its README says where they come from
RECORDINGS = DATA.with_name("golden")
