"""The article's story, played on real servers."""
