"""CARLA 0.9.16's wire protocol: remote calls on one port, streams of sensor data on another.

``layouts``, ``values`` and ``measurements`` say how bytes lie, ``rpc`` and ``streams`` move them,
``calls`` lists what a client may call, ``handlers`` and ``batch`` answer it from the world, and
``host`` holds all of it together on one event loop. Nothing here knows physics.
"""
