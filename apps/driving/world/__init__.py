"""A world that CARLA 0.9.16's Python client can drive, without Unreal and without a GPU."""
