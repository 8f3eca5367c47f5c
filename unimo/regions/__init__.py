"""Region features: where they come from (truth, grid, detector, files), and the sidecar files that keep them."""
