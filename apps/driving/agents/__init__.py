"""Who drives: the interface in ``base``, and the drivers that have it."""
