"""Recognition with the classifiers of ``videoclip.classifier``: from stores and files to fitted heads and tables."""
