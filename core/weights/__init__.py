"""Reading and writing weights: our own model folders, and adapters for published checkpoints.

One file per source. Nothing in here unpickles anything: weights are safetensors, their description
is JSON.
"""
