"""Sensors, their readings, and the rays that some of them follow."""
