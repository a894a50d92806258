"""The parts of the medical page: the image, the models, the work, what came of it, taking it away."""
