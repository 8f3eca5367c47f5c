"""Text rewriting (UNIMO section 3.2): scene graphs, replaced nodes, back-translation, sidecar files."""
