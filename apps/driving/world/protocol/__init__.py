"""CARLA 0.9.16's wire protocol: remote calls on one port, streams of sensor data on another.

``layouts`` says how bytes lie, ``rpc`` and ``streams`` move them, ``calls`` lists what a client
may call and ``handlers`` and ``batch`` answer it from the world. Nothing here knows physics.
"""
