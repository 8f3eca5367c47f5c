"""A corpus: files of images and texts, indexed once, read by position, with every bad sample named."""
