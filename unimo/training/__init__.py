"""The parts of `unimo.train`: settings, opened data, one step as a module, dev marks, progress."""
