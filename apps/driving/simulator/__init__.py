"""A town under CARLA's client, embedded or a real CARLA, and the cameras of one car in it."""
