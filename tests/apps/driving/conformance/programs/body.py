"""What a car feels: place, motion, collisions, lines crossed."""

from __future__ import annotations

import math
from typing import Any

import carla
import numpy as np
from harness import Session, ahead, close_to, main, raises, speed, turn, vector

ORIGIN = carla.Transform()


def check_gnss(s: Session) -> dict[str, Any]:
    """Latitude, longitude and altitude of the sensor's place by the map's own georeference."""
    worst = 0.0
    for point in s.map.get_spawn_points()[::40][:5]:
        place = ahead(point, 0, z=2.0)
        mail = s.sensor("sensor.other.gnss", place)
        fix = mail.at(s.tick(2))
        wanted = s.map.transform_to_geolocation(fix.transform.location)
        # 1e-6 degrees are 0.1 m.
        close_to(
            [fix.latitude, fix.longitude], [wanted.latitude, wanted.longitude], 2e-6, "degrees"
        )
        close_to(fix.altitude, wanted.altitude, 0.05, "altitude")
        worst = max(
            worst, abs(fix.latitude - wanted.latitude), abs(fix.longitude - wanted.longitude)
        )
        mail.sensor.destroy()
    return {"largest_difference_degrees": worst}


def check_gnss_noise(s: Session) -> dict[str, Any]:
    """Standard deviation and bias as asked, the same for the same seed."""
    place = s.map.get_spawn_points()[0]
    noise = {"noise_lat_stddev": 1e-4, "noise_lon_bias": 5e-4, "noise_seed": 7}
    mails = [s.sensor("sensor.other.gnss", place, **noise) for _ in range(2)]
    s.tick()
    rows = [
        [(f.latitude, f.longitude) for f in (m.at(frame) for m in mails)]
        for frame in (s.tick() for _ in range(80))
    ]
    values = np.array(rows)
    truth = s.map.transform_to_geolocation(place.location)
    spread = float(values[:, 0, 0].std())
    assert 0.5e-4 < spread < 2e-4, f"standard deviation {spread:.1e} degrees"
    close_to(values[:, 0, 1].mean() - truth.longitude, 5e-4, 5e-5, "bias of the longitude")
    close_to(values[:, 0, 1].std(), 0, 2e-6, "deviation of the longitude")
    return {"stddev_degrees": spread}


def check_imu_at_rest(s: Session) -> dict[str, Any]:
    """Gravity upwards, nothing turns; the compass is the heading from north, which is -y."""
    headings = {}
    for i in (0, 40, 80, 120):
        points = s.map.get_spawn_points()
        car = s.car(points[i % len(points)], settle=40)
        mail = s.sensor("sensor.other.imu", ORIGIN, car)
        s.tick(2)
        data = [mail.at(s.tick()) for _ in range(5)]
        felt = np.mean([vector(d.accelerometer) for d in data], axis=0)
        close_to(felt, [0, 0, 9.81], 0.35, "acceleration at rest")
        close_to(np.mean([vector(d.gyroscope) for d in data], axis=0), [0, 0, 0], 0.02, "rotation")
        yaw = car.get_transform().rotation.yaw
        wanted = math.radians((yaw + 90) % 360)
        difference = math.remainder(data[-1].compass - wanted, 2 * math.pi)
        close_to(difference, 0, 0.02, f"compass at a yaw of {yaw:.0f} degrees, radians off")
        headings[round(yaw)] = data[-1].compass
        mail.sensor.destroy()
        car.destroy()
        s.tick()
    return {"compass_by_yaw": headings}


def check_imu_in_motion(s: Session) -> dict[str, Any]:
    """Forward when speeding up, backward when braking, sideways and turning in a bend."""
    car = s.car(s.straight(90))
    mail = s.sensor("sensor.other.imu", ORIGIN, car)
    s.tick()

    def mean(ticks: int, control: carla.VehicleControl, skip: int) -> tuple[np.ndarray, np.ndarray]:
        car.apply_control(control)
        data = [mail.at(s.tick()) for _ in range(ticks)][skip:]
        return (
            np.mean([vector(d.accelerometer) for d in data], axis=0),
            np.mean([vector(d.gyroscope) for d in data], axis=0),
        )

    faster, _ = mean(40, carla.VehicleControl(throttle=1.0), 10)
    assert faster[0] > 1.0, f"{faster[0]:.2f} m/s^2 ahead at full throttle"
    yaw = car.get_transform().rotation.yaw
    start = speed(car)
    bend, gyro = mean(20, carla.VehicleControl(throttle=0.4, steer=0.15), 5)
    rate = math.radians(turn(yaw, car.get_transform().rotation.yaw)) / 1.0
    assert rate > 0.05
    assert 0.6 * rate < gyro[2] < 1.9 * rate, f"gyroscope {gyro[2]:.2f}, turned {rate:.2f} rad/s"
    wanted = gyro[2] * (start + speed(car)) / 2
    close_to(bend[1], wanted, 0.5 * abs(wanted) + 0.3, "sideways acceleration, speed times rate")
    slower, _ = mean(10, carla.VehicleControl(brake=1.0), 2)
    assert slower[0] < -2.0, f"{slower[0]:.2f} m/s^2 ahead at full brake"
    return {"throttle": faster[0], "bend": bend[1], "brake": slower[0]}


def check_imu_noise(s: Session) -> dict[str, Any]:
    place = s.map.get_spawn_points()[0]
    mail = s.sensor(
        "sensor.other.imu", place, noise_accel_stddev_x=0.5, noise_gyro_bias_z=0.25, noise_seed=3
    )
    s.tick()
    data = [mail.at(s.tick()) for _ in range(80)]
    x = np.array([d.accelerometer.x for d in data])
    y = np.array([d.accelerometer.y for d in data])
    assert 0.3 < x.std() < 0.8, x.std()
    close_to(y.std(), 0, 0.01, "deviation along y")
    close_to(np.mean([d.gyroscope.z for d in data]), 0.25, 0.02, "bias of the gyroscope")
    return {"stddev_x": float(x.std())}


def check_collision(s: Session) -> dict[str, Any]:
    """A car runs into a parked one at about 8 m/s: both hear of it, and both are moved by it."""
    place = s.straight(50)
    mine = s.car(place, settle=0)
    other = s.car(ahead(place, 15))
    mails = [s.sensor("sensor.other.collision", ORIGIN, car) for car in (mine, other)]
    for car in (mine, other):
        car.apply_control(carla.VehicleControl())
    before = other.get_location()
    s.tick()
    mine.set_target_velocity(place.get_forward_vector() * 8)
    s.tick(40)
    events = [
        [e for e in mail.drain() if e.other_actor.type_id.startswith("vehicle")] for mail in mails
    ]
    assert events[0], "the car that ran into the other heard nothing"
    assert events[1], "the car that was hit heard nothing"
    first = events[0][0]
    assert first.actor.id == mine.id
    assert first.other_actor.id == other.id
    assert events[1][0].other_actor.id == mine.id
    assert first.other_actor.type_id == other.type_id
    impulse = first.normal_impulse.length()
    assert impulse > 500, f"{impulse:.0f} N s from 8 m/s and 1.8 t"
    assert other.get_location().distance(before) > 0.3, "the parked car was not moved"
    local = place.inverse_transform(mine.get_location())
    assert local.x < place.inverse_transform(other.get_location()).x, (
        "it drove through the other car"
    )
    return {"events": [len(e) for e in events], "first_impulse_Ns": impulse}


def check_no_collision(s: Session) -> dict[str, Any]:
    """A car that stands or drives on a free road hits no vehicle, walker or prop."""
    car = s.car(s.straight(60))
    mail = s.sensor("sensor.other.collision", ORIGIN, car)
    s.tick(20)
    car.apply_control(carla.VehicleControl(throttle=0.6))
    s.tick(50)
    hit = [e.other_actor.type_id for e in mail.drain()]
    assert not [kind for kind in hit if kind.startswith(("vehicle", "walker", "static.prop"))], hit
    return {"heard": hit}


def check_collision_with_walker(s: Session) -> dict[str, Any]:
    place = s.straight(50)
    car = s.car(place)
    walker = s.spawn("walker.pedestrian.0001", ahead(place, 12, z=0.8))
    mail = s.sensor("sensor.other.collision", ORIGIN, car)
    s.tick(5)
    car.set_target_velocity(place.get_forward_vector() * 6)
    car.apply_control(carla.VehicleControl(throttle=0.4))
    s.tick(60)
    hit = [e for e in mail.drain() if e.other_actor.type_id.startswith("walker")]
    assert hit, "it ran over a walker and heard nothing"
    assert hit[0].other_actor.id == walker.id
    return {"events": len(hit)}


def check_collision_with_the_town(s: Session) -> dict[str, Any]:
    """Straight off the road something stands in the way: it stops the car and has a static kind."""
    car = s.car(s.map.get_spawn_points()[0])
    mail = s.sensor("sensor.other.collision", ORIGIN, car)
    hits: list[Any] = []
    for point in s.map.get_spawn_points()[::15][:12]:
        aside = carla.Transform(point.location, carla.Rotation(yaw=point.rotation.yaw + 90))
        car.set_transform(aside)
        car.set_target_velocity(carla.Vector3D())
        s.tick(5)
        for _ in range(60):
            car.apply_control(carla.VehicleControl(throttle=1.0))
            s.tick()
        hits = [e for e in mail.drain() if e.other_actor.type_id.startswith("static")]
        if hits:
            break
    assert hits, "twelve drives off the road hit nothing"
    assert hits[0].normal_impulse.length() > 0
    return {"kind": hits[0].other_actor.type_id, "speed_after": speed(car)}


def check_lane_invasion(s: Session) -> dict[str, Any]:
    """Crossing the line to the left is told, with the line's kind; driving straight is not."""
    place = s.straight(80)
    car = s.car(place)
    mail = s.sensor("sensor.other.lane_invasion", ORIGIN, car)
    s.tick(2)
    car.apply_control(carla.VehicleControl(throttle=0.5))
    s.tick(40)
    early = mail.drain()
    assert not early, "told of a line while driving straight in the middle of the lane"
    car.apply_control(carla.VehicleControl(throttle=0.4, steer=-0.2))
    s.tick(40)
    events = mail.drain()
    assert events, "it crossed the line and nothing was told"
    kinds = [str(m.type) for e in events for m in e.crossed_lane_markings]
    assert kinds
    return {"events": len(events), "kinds": sorted(set(kinds))}


def check_sensor_without_parent(s: Session) -> dict[str, Any]:
    """Collision and lane sensors need a parent; without one CARLA says so or stays silent."""
    try:
        sensor = s.spawn("sensor.other.collision", s.map.get_spawn_points()[0])
    except RuntimeError as error:
        return {"answer": str(error)}
    sensor.listen(lambda event: None)
    s.tick(3)
    assert sensor.destroy()
    return {"answer": "spawned"}


def check_dead_sensor(s: Session) -> dict[str, Any]:
    """Calls on a destroyed actor are errors of the client, not of the world."""
    car = s.car()
    s.tick()
    assert car.destroy()
    s.tick()
    message = raises(lambda: car.apply_control(carla.VehicleControl(throttle=1.0)))
    assert "destroyed" in message
    s.tick()
    return {"message": message}


if __name__ == "__main__":
    main(globals())
