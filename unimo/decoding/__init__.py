"""Decoding: greedy, sampling and beam search over any model that gives the next token's logits."""
