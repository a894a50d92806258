"""Driving: an embedded world under CARLA's client."""
