"""Run files, re-ranking, search, report page."""
