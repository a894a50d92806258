"""The parts of the driving page: what to drive, driving it, looking at it, taking it away."""
