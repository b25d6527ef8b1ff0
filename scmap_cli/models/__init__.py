"""One readable file a method; ``base`` is the protocol that the training loop knows."""
