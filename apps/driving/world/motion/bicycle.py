"""A kinematic bicycle with PhysX's engine: a substep of all vehicles at once, and its inverse.

Glossary, of one vehicle
    v            m/s along the body at the rear axle; s, m/s to the right, and w, rad/s, what a push
                 has left of sliding and spinning beyond what the wheels ask for
    L, b, r      wheelbase, half of it (the origin is midway), wheel radius, m
    T, d, G      engine torque (N m) at full throttle, its damping (kg m^2/s), total gear ratio
    C, D         quadratic and linear resistance, N s^2/m^2 and N s/m
    mu           friction of tyre on road: the tyre's times ``Fleet.friction``, which weather sets

Along the body (NVIDIA PhysX 3.3 guide, "Vehicles", "Engine"; Guiggiani, The Science of Vehicle
Dynamics, 2014, chapter 3):
    m_eff dv/dt = throttle T(w) G/r - D v - C v |v| - sign(v) (brakes + rolling)
    D = d G^2/r^2 + wheels 0.25/r^2,  C = 0.6 drag width height,  w = G v / r
    m_eff = m + moi G^2/r^2 + wheels 10 kg     (the wheels' and the engine's inertia)
    d goes from ``damping_engaged`` at no throttle to ``damping_full``, through a clutch in series
Across: curvature = tan(lock) steer curve(v) / L, cut where v^2 curvature would pass mu g; what the
tyres give along is then at most mu g sqrt(1 - (a_y / mu g)^2) (the friction circle). s and w fall at
mu g and mu g b / k^2 (Coulomb), k the box's radius of gyration.

Deviates from CARLA: no suspension (a body neither dives nor leans), no wheel slip as a state, and a
brake opens the clutch. The ground is z = 0, and whatever is above it falls.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.driving.world.motion.vehicles import Fleet

GRAVITY = 9.81
STEER_RISE, STEER_FALL = 2.5, 5.0  # full locks a second, UE4's WheeledVehicleMovementComponent
ROLLING = 0.008  # share of the weight
GROUND = 0.02  # m: tyres grip below
TORQUE_BINS, STEER_BINS, STEER_SPAN = 64, 32, 160.0  # of the tables; km/h that the second spans


def advance(fleet: Fleet, h: float) -> None:
    """``h`` seconds, at most 0.05: positions, velocities, gears, steering."""
    v, yaw = fleet.speed.copy(), np.radians(fleet.yaw)
    on_road = fleet.z <= GROUND
    mu_g = fleet.grip * (fleet.friction * GRAVITY) * on_road

    # Steering: the wheel follows the command; half of the way counts for this substep.
    toward = fleet.steer - fleet.wheel
    rate = np.where(toward * fleet.wheel >= 0.0, STEER_RISE, STEER_FALL) * h
    moved = np.clip(toward, -rate, rate)
    curvature = fleet.lock * (fleet.wheel + 0.5 * moved) * steer_share(fleet, np.abs(v))
    fleet.wheel += moved
    most = mu_g / np.maximum(v * v, 1e-6)
    np.clip(curvature, -most, most, out=curvature)
    across = v * v * curvature
    along = np.sqrt(np.maximum(mu_g * mu_g - across * across, 0.0))  # left by the circle

    # Engine: torque and its slope from the table, damping through the clutch.
    ratio = _shift(fleet, h)
    pull = ratio / fleet.radius
    turning = np.maximum(pull * v, 0.0)
    at = np.minimum(turning * (TORQUE_BINS / fleet.limit), TORQUE_BINS - 1e-6)
    low = at.astype(np.int64)
    flat, i = fleet.torque_table.ravel(), fleet.torque_at + low
    rise = flat[i + 1] - flat[i]
    # The limiter takes the torque away within a hundredth above the limit.
    throttle = fleet.throttle * np.clip(101.0 - 100.0 * turning / fleet.limit, 0.0, 1.0)
    slope = throttle * rise * (TORQUE_BINS / fleet.limit) * pull * pull
    force = throttle * (flat[i] + (at - low) * rise) * pull
    damping = fleet.engaged + (fleet.full - fleet.engaged) * fleet.throttle
    damping *= fleet.clutch / (fleet.clutch + damping) * (1.0 - fleet.brake)
    linear = damping * pull * pull + fleet.wheel_drag
    heavy = fleet.mass + fleet.moi * pull * pull + fleet.wheel_mass

    # Linearised implicit midpoint: second order, so that 0.05 s is enough.
    resist = fleet.drag * np.abs(v)
    gain = (force - (linear + resist) * v) / heavy
    gain = np.clip(gain, -along, along)
    fade = (linear + 2.0 * resist - slope) / heavy
    rolled = v + h * gain / np.maximum(1.0 + 0.5 * h * fade, 0.5)
    weight = fleet.mass * along
    stop = np.minimum(fleet.brake * fleet.brakes, weight)
    stop += fleet.hand_brake * np.minimum(fleet.hand_brakes, 0.5 * weight)
    # Rolling resistance, too, reaches the road through the tyres' grip only.
    stop = np.minimum(stop, weight) / fleet.mass + np.minimum(ROLLING * GRAVITY, along)
    size = np.abs(rolled)
    after = np.copysign(np.maximum(size - stop * h, 0.0), rolled)
    # A vehicle that stops within the substep moves for a part of it only.
    part = np.minimum(size / np.maximum(stop * h, 1e-12), 1.0)
    path = 0.5 * (v + after) * h * part

    # Sliding and spinning left by pushes.
    slide, spin = fleet.slide, fleet.spin
    less = np.copysign(np.maximum(np.abs(slide) - mu_g * h, 0.0), slide)
    side = 0.5 * (slide + less) * h
    calm = mu_g * fleet.lag / fleet.gyration * h
    still = np.copysign(np.maximum(np.abs(spin) - calm, 0.0), spin)
    turn = 0.5 * (spin + still) * h

    held, moves = fleet.held, fleet.simulate
    if held.any():
        after, path = np.where(held, fleet.held_x, after), np.where(held, fleet.held_x * h, path)
        less, side = np.where(held, fleet.held_y, less), np.where(held, fleet.held_y * h, side)
    swing = path * curvature + turn
    if not moves.all():
        after, path, side = after * moves, path * moves, side * moves
        less, still, swing = less * moves, still * moves, swing * moves

    # The rear axle rolls along the mean heading; a spin turns about the origin, before it.
    mean, new = yaw + 0.5 * swing, yaw + swing
    side = side - turn * fleet.lag * moves
    cm, sm = np.cos(mean), np.sin(mean)
    cn, sn = np.cos(new), np.sin(new)
    c0, s0 = np.cos(yaw), np.sin(yaw)
    fleet.x += path * cm - side * sm + fleet.lag * (cn - c0)
    fleet.y += path * sm + side * cm + fleet.lag * (sn - s0)
    fleet.yaw[:] = (np.degrees(new) + 180.0) % 360.0 - 180.0
    fleet.speed[:], fleet.slide[:], fleet.spin[:] = after, less, still
    fleet.set_world_velocity(new, after, curvature)
    fleet.yaw_rate[:] = np.degrees(after * curvature + still)
    _fall(fleet, h, moves)


def pedals(fleet: Fleet, rows: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Throttle and brake (k) that give vehicles ``rows`` accelerations ``wanted`` (k), m/s^2.

    Exact for an engine whose damping is linear in the throttle; the clutch bends it a little.
    """
    pull = fleet.ratio[rows, np.maximum(fleet.gear[rows], 1) + 1] / fleet.radius[rows]
    v = fleet.speed[rows]
    low, clutch = fleet.torque_table[rows], fleet.clutch[rows]
    at = np.minimum(np.maximum(pull * v, 0.0) * TORQUE_BINS / fleet.limit[rows], TORQUE_BINS - 1.0)
    torque = low[np.arange(len(rows)), at.astype(np.int64)]
    idle = fleet.engaged[rows] * clutch / (clutch + fleet.engaged[rows]) * pull * pull * v
    full = fleet.full[rows] * clutch / (clutch + fleet.full[rows]) * pull * pull * v
    drag = (fleet.wheel_drag[rows] + fleet.drag[rows] * np.abs(v)) * v
    mass = fleet.mass[rows]
    heavy = mass + fleet.moi[rows] * pull * pull + fleet.wheel_mass[rows]
    roll = ROLLING * GRAVITY
    force = (wanted + roll) * heavy + drag
    throttle = (force + idle) / np.maximum(torque * pull + idle - full, 1.0)
    # Half a brake leaves half of the engine's damping.
    stops = fleet.brakes[rows] / mass - idle / heavy
    brakes = (-wanted - roll - (drag + idle) / heavy) / np.maximum(stops, 0.1)
    pressed = throttle < 0.0
    return (
        np.where(pressed, 0.0, np.minimum(throttle, 1.0)),
        np.where(pressed, np.clip(brakes, 0.0, 1.0), 0.0),
    )


def steering(fleet: Fleet, rows: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """The steer command (k) for curvatures (k), 1/m, of the rear axle's path; right positive."""
    most = fleet.lock * steer_share(fleet, np.abs(fleet.speed))
    steer: np.ndarray = np.clip(curvature / np.maximum(most[rows], 1e-6), -1.0, 1.0)
    return steer


def steer_share(fleet: Fleet, speed: np.ndarray) -> np.ndarray:
    """The steering curve's share (n) at ``speed`` (n), m/s, not negative."""
    at = np.minimum(speed * (3.6 * STEER_BINS / STEER_SPAN), STEER_BINS - 1e-6)
    low = at.astype(np.int64)
    flat, i = fleet.curve_table.ravel(), fleet.curve_at + low
    share: np.ndarray = flat[i] + (at - low) * (flat[i + 1] - flat[i])
    return share


def _shift(fleet: Fleet, h: float) -> np.ndarray:
    """The total ratio (n) in force, after the automatic gearbox; 0 while it shifts."""
    ratio = fleet.ratio[fleet.every, fleet.gear + 1]
    share = np.maximum(ratio * fleet.speed, 0.0) / (fleet.radius * fleet.limit)
    here = fleet.every, fleet.gear + 1
    free = (fleet.gear > 0) & fleet.autobox & ~fleet.manual & (fleet.shifting <= 0.0)
    change = (free & (share > fleet.up_at[here])).astype(np.int64)
    change -= free & (share < fleet.down_at[here])
    np.maximum(fleet.shifting - h, 0.0, out=fleet.shifting)
    if change.any():
        fleet.gear += change
        fleet.shifting[:] = np.where(change != 0, fleet.switch, fleet.shifting)
        ratio = fleet.ratio[fleet.every, fleet.gear + 1]
    return np.where(fleet.shifting > 0.0, 0.0, ratio)


def _fall(fleet: Fleet, h: float, moves: np.ndarray) -> None:
    if not (fleet.z.any() or fleet.vz.any() or fleet.pitch.any() or fleet.roll.any()):
        return
    falls = moves & fleet.gravity
    fleet.z += np.where(moves, fleet.vz * h, 0.0) - np.where(falls, 0.5 * GRAVITY * h * h, 0.0)
    fleet.vz -= np.where(falls, GRAVITY * h, 0.0)
    landed = falls & (fleet.z <= 0.0)
    fleet.z[landed] = fleet.vz[landed] = 0.0
    upright = np.where(landed, math.exp(-8.0 * h), 1.0)  # levels out in a third of a second
    fleet.pitch *= upright
    fleet.roll *= upright
    for angle in (fleet.pitch, fleet.roll):
        angle[np.abs(angle) < 1e-3] = 0.0
