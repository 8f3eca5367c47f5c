"""The generated world `scenes`: images with known truth, captions, questions."""
