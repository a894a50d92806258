"""The server under the real wheel: each program runs in a process of its own, which may crash."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from apps.driving.world.protocol.calls import CALLS, Answer, Status
from apps.driving.world.server import bind, in_thread, serve
from apps.driving.world.town import build_town
from core.errors import DataError, ResourceError, UsageError

pytest.importorskip("carla")

ROOT = Path(__file__).resolve().parents[4]
TOWN01 = ROOT / "samples" / "Town01.xodr"
PRELUDE = """
import json, math, os, queue, socket, sys, time
import carla

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    manager_port = free.getsockname()[1]

client = carla.Client("127.0.0.1", int(sys.argv[1]))
client.set_timeout(30.0)  # of a machine with other things to do
world = client.get_world()


def synchronous(delta=0.05):
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, delta
    world.apply_settings(settings)


def show(**facts):
    print(json.dumps(facts), flush=True)
"""

# 0.9.16's client may abort when the interpreter ends while a callback still runs; what went before
# has been shown by then.
EPILOGUE = """
sys.stdout.flush()
os._exit(0)
"""


class Program:
    """Client code in a process of its own, which must not write what is cached into a home."""

    def __init__(self, port: int, code: str, cache: Path) -> None:
        environment = {**os.environ, "CARLA_CACHE_DIR": str(cache), "HOME": str(cache)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(code) + EPILOGUE, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def facts(self, seconds: float = 60) -> dict:
        """The next line that the program shows; an AssertionError when none comes for so long."""
        late = threading.Timer(seconds, self.process.kill)
        late.start()
        try:
            while line := self.process.stdout.readline():
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            late.cancel()
        said, code = self.process.stderr.read()[-2000:], self.process.wait()
        raise AssertionError(f"{code}, or nothing for {seconds:g} s: {said}")

    def done(self, seconds: float = 60) -> list[dict]:
        """Everything it shows until it ends well."""
        out, err = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, (
            f"{self.process.returncode}: {out[-2000:]}{err[-2000:]}"
        )
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def town():
    return build_town("procedural:0")


@pytest.fixture
def server(town):
    calls, streams = bind(0)
    with calls, streams, in_thread(town, calls, streams, folder=TOWN01.parent) as running:
        running.port = calls.getsockname()[1]
        yield running


@pytest.fixture
def start(server, tmp_path):
    programs = []

    def starting(code: str) -> Program:
        programs.append(Program(server.port, code, tmp_path))
        return programs[-1]

    yield starting
    for program in programs:
        program.kill()


def test_every_method_of_the_api(server, start):
    """Each is served, or refused with an error that names the call; none hangs or aborts."""
    results = {}
    for fact in start(EVERY_METHOD).done():
        results[fact["name"]] = fact["error"]
    refused = {call.name for call in CALLS.values() if call.status is Status.REFUSED}
    told = set()
    for name, error in results.items():
        if error is not None:
            call = error.partition(":")[0]
            assert call in refused, f"{name}: {error}"
            assert error.startswith(f"{call}: not supported by this world (")
            told.add(call)
    waited = {name for name in refused if CALLS[name].answer is not Answer.NONE}
    made = set(server.handlers.calls)
    assert told == waited & made
    # What the Python API of 0.9.16 has no method for, or what other tests here use.
    without_method = {call.name for call in CALLS.values() if not call.python}
    elsewhere = {
        *("load_new_episode", "copy_opendrive_to_file", "send", "destroy_traffic_manager"),
        *("get_wheel_pitch_angle", "get_traffic_manager_running"),
    }
    assert CALLS.keys() - made - without_method - elsewhere == set()
    assert made <= CALLS.keys()


EVERY_METHOD = """
from carla import Location as L, Rotation as R, Transform as T, Vector3D as V

synchronous()
library, spawns = world.get_blueprint_library(), world.get_map().get_spawn_points()
car = world.spawn_actor(library.find("vehicle.tesla.model3"), spawns[0])
walker = world.spawn_actor(library.find("walker.pedestrian.0001"), spawns[3])
camera = world.spawn_actor(library.find("sensor.camera.rgb"), T(L(1, 0, 2)), attach_to=car)
world.tick()
light = world.get_actors().filter("traffic.traffic_light*")[0]
debug, lamps = world.debug, world.get_lightmanager()
pictures = queue.Queue()
wheel = carla.VehicleWheelLocation.FR_Wheel
box = carla.BoundingBox(L(1, 2, 3), V(1, 1, 1))
colour = carla.TextureColor(2, 2)
shade = carla.TextureFloatColor(2, 2)

methods = dict(
    version=lambda: client.get_server_version(),
    maps=lambda: client.get_available_maps(),
    files=lambda: client.get_required_files("", False),
    weather=lambda: world.set_weather(world.get_weather()),
    settings=lambda: world.get_settings(),
    gravity=lambda: world.set_imui_sensor_gravity(world.get_imui_sensor_gravity()),
    spectator=lambda: world.get_spectator().get_transform(),
    actor=lambda: world.get_actor(car.id).attributes,
    physics=lambda: car.apply_physics_control(car.get_physics_control()),
    telemetry=lambda: car.get_telemetry_data(),
    ackermann=lambda: car.apply_ackermann_control(carla.VehicleAckermannControl(speed=1.0)),
    gains=lambda: car.apply_ackermann_controller_settings(car.get_ackermann_controller_settings()),
    control=lambda: car.apply_control(carla.VehicleControl(0.1, 0.2, 0.3, True, True, True, 1)),
    lights=lambda: car.set_light_state(car.get_light_state()),
    all_lights=lambda: world.get_vehicles_light_states(),
    open_door=lambda: car.open_door(carla.VehicleDoor.FL),
    close_door=lambda: car.close_door(carla.VehicleDoor.All),
    steer_wheel=lambda: car.set_wheel_steer_direction(wheel, 12.0),
    wheel_angle=lambda: car.get_wheel_steer_angle(wheel),
    pitch_wheel=lambda: car.set_wheel_pitch_angle(wheel, 12.0),
    failure=lambda: car.get_failure_state(),
    limit=lambda: (car.get_speed_limit(), car.get_traffic_light(), car.is_at_traffic_light()),
    location=lambda: car.set_location(L(1, 2, 3)),
    transform=lambda: car.set_transform(spawns[0]),
    velocity=lambda: car.set_target_velocity(V(1, 0, 0)),
    turning=lambda: car.set_target_angular_velocity(V(0, 0, 1)),
    constant=lambda: (car.enable_constant_velocity(V(1, 0, 0)), car.disable_constant_velocity()),
    impulse=lambda: car.add_impulse(V(1, 2, 3)),
    force=lambda: car.add_force(V(1, 2, 3)),
    angular=lambda: car.add_angular_impulse(V(1, 2, 3)),
    torque=lambda: car.add_torque(V(1, 2, 3)),
    simulate=lambda: (car.set_simulate_physics(False), car.set_simulate_physics(True)),
    collisions=lambda: car.set_collisions(True),
    weight=lambda: car.set_enable_gravity(True),
    shown=lambda: car.show_debug_telemetry(True),
    carsim=lambda: car.enable_carsim("x"),
    carsim_road=lambda: car.use_carsim_road(True),
    chrono=lambda: car.enable_chrono_physics(1, 0.1, "a", "b", "c", "d"),
    physx=lambda: car.restore_physx_physics(),
    components=lambda: car.get_component_names(),
    component_world=lambda: car.get_component_world_transform("x"),
    component_relative=lambda: car.get_component_relative_transform("x"),
    bones=lambda: car.get_bone_names(),
    bones_world=lambda: car.get_bone_world_transforms(),
    bones_relative=lambda: car.get_bone_relative_transforms(),
    car_bones=lambda: car.get_vehicle_bone_world_transforms(),
    sockets=lambda: car.get_socket_names(),
    sockets_world=lambda: car.get_socket_world_transforms(),
    sockets_relative=lambda: car.get_socket_relative_transforms(),
    walk=lambda: walker.apply_control(carla.WalkerControl(V(1, 0, 0), 1.0, True)),
    skeleton=lambda: walker.get_bones(),
    pose=lambda: walker.set_bones(carla.WalkerBoneControlIn([("a", T())])),
    blend=lambda: walker.blend_pose(0.5),
    animation=lambda: walker.get_pose_from_animation(),
    state=lambda: light.set_state(carla.TrafficLightState.Green),
    green=lambda: light.set_green_time(5.0),
    yellow=lambda: light.set_yellow_time(5.0),
    red=lambda: light.set_red_time(5.0),
    freeze=lambda: light.freeze(False),
    group=lambda: light.get_group_traffic_lights(),
    reset_group=lambda: light.reset_group(),
    heads=lambda: light.get_light_boxes(),
    where=lambda: (light.get_pole_index(), light.get_stop_waypoints(), light.trigger_volume),
    affected=lambda: light.get_affected_lane_waypoints(),
    freeze_all=lambda: world.freeze_all_traffic_lights(False),
    reset_all=lambda: world.reset_all_traffic_lights(),
    landmark=lambda: [world.get_traffic_light(m) for m in world.get_map().get_all_landmarks()[:3]],
    level=lambda: world.get_level_bbs(carla.CityObjectLabel.Any),
    objects=lambda: world.get_environment_objects(carla.CityObjectLabel.Any),
    hide=lambda: world.enable_environment_objects({1, 2}, False),
    layer=lambda: (world.load_map_layer(carla.MapLayer.All), world.unload_map_layer(carla.MapLayer.All)),
    ray=lambda: world.cast_ray(L(0, 0, 5), L(0, 0, -5)),
    point=lambda: world.project_point(L(0, 0, 5), V(0, 0, -1), 10.0),
    ground=lambda: world.ground_projection(L(0, 0, 5), 10.0),
    names=lambda: world.get_names_of_all_objects(),
    paint=lambda: world.apply_color_texture_to_object("a", carla.MaterialParameter.Diffuse, colour),
    shade=lambda: world.apply_float_color_texture_to_object("a", carla.MaterialParameter.Diffuse, shade),
    glass=lambda: world.set_annotations_traverse_translucency(True),
    draw_point=lambda: debug.draw_point(L(1, 2, 3)),
    draw_line=lambda: debug.draw_line(L(1, 2, 3), L(3, 4, 5)),
    draw_arrow=lambda: debug.draw_arrow(L(1, 2, 3), L(3, 4, 5)),
    draw_box=lambda: debug.draw_box(box, R()),
    draw_string=lambda: debug.draw_string(L(1, 2, 3), "hi"),
    draw_hud=lambda: debug.draw_hud_point(L(1, 2, 3)),
    undraw=lambda: (debug.clear_debug_shape(), debug.clear_debug_string()),
    lamps=lambda: lamps.turn_off(lamps.get_all_lights()),
    lamps_seen=lambda: world.tick(),
    night=lambda: lamps.set_day_night_cycle(False),
    record=lambda: client.start_recorder("x", True),
    record_stop=lambda: client.stop_recorder(),
    record_info=lambda: client.show_recorder_file_info("x", True),
    record_collisions=lambda: client.show_recorder_collisions("x", "v", "a"),
    record_blocked=lambda: client.show_recorder_actors_blocked("x", 1.0, 2.0),
    replay=lambda: client.replay_file("x", 1.0, 2.0, 3, True),
    replay_stop=lambda: client.stop_replayer(True),
    replay_factor=lambda: client.set_replayer_time_factor(2.0),
    replay_hero=lambda: client.set_replayer_ignore_hero(True),
    replay_spectator=lambda: client.set_replayer_ignore_spectator(True),
    ros=lambda: (camera.enable_for_ros(), camera.disable_for_ros()),
    ros_enabled=lambda: camera.is_enabled_for_ros(),
    gbuffer=lambda: camera.listen_to_gbuffer(carla.GBufferTextureID.SceneColor, print),
    gbuffers=lambda: camera.enable_gbuffers(True),
    ignored=lambda: camera.set_ignored_vehicles([car.id]),
    listen=lambda: (camera.listen(pictures.put), world.tick(), pictures.get(timeout=20), camera.stop()),
    navigation=lambda: world.get_random_location_from_navigation().x,
    manager=lambda: client.get_trafficmanager(manager_port).set_synchronous_mode(True),
    autopilot=lambda: car.set_autopilot(True, manager_port),
    batch=lambda: client.apply_batch_sync([carla.command.ApplyVelocity(car, V())] if False else [], True),
    destroy=lambda: car.destroy(),
)
for name, method in methods.items():
    error = None
    try:
        method()
    except RuntimeError as raised:
        error = str(raised)
    show(name=name, error=error)
"""


def test_each_command_of_a_batch(start):
    (fact,) = start(
        """
        from carla import Location as L, Transform as T, Vector3D as V
        from carla.command import *
        from carla import command as C

        synchronous()
        library, spawns = world.get_blueprint_library(), world.get_map().get_spawn_points()
        blueprint = library.find("vehicle.tesla.model3")
        client.get_trafficmanager(manager_port).set_synchronous_mode(True)
        spawn = C.SpawnActor(blueprint, spawns[0])
        spawn = spawn.then(C.SetAutopilot(C.FutureActor, True, manager_port))
        walk = C.SpawnActor(library.find("walker.pedestrian.0001"), spawns[4])
        car, walker = (r.actor_id for r in client.apply_batch_sync([spawn, walk], True))
        lens = C.SpawnActor(library.find("sensor.other.imu"), T(), car)
        (imu,) = (r.actor_id for r in client.apply_batch_sync([lens], True))
        commands = [
            C.ApplyVehicleControl(car, carla.VehicleControl(0.5)),
            C.ApplyVehicleAckermannControl(car, carla.VehicleAckermannControl(speed=1.0)),
            C.ApplyWalkerControl(walker, carla.WalkerControl(V(1, 0, 0), 1.0)),
            C.ApplyVehiclePhysicsControl(car, world.get_actor(car).get_physics_control()),
            C.ApplyTransform(car, spawns[1]),
            C.ApplyWalkerState(walker, spawns[5], 1.0),
            C.ApplyTargetVelocity(car, V(1, 0, 0)),
            C.ApplyTargetAngularVelocity(car, V(0, 0, 1)),
            C.ApplyImpulse(car, V(1, 0, 0)),
            C.ApplyForce(car, V(1, 0, 0)),
            C.ApplyAngularImpulse(car, V(0, 0, 1)),
            C.ApplyTorque(car, V(0, 0, 1)),
            C.SetSimulatePhysics(car, True),
            C.SetEnableGravity(car, True),
            C.SetVehicleLightState(car, carla.VehicleLightState.Brake),
            C.SetAutopilot(car, False, manager_port),
            C.DestroyActor(car),
            C.DestroyActor(car),
        ]
        answers = client.apply_batch_sync(commands, True)
        show(
            answered=[a.actor_id for a in answers], errors=[a.error for a in answers],
            car=car, walker=walker,
        )
        """
    ).done()
    car, walker = fact["car"], fact["walker"]
    assert fact["errors"][:-1] == [""] * 17
    assert fact["answered"][:-1] == [car, car, walker, car, car, walker, *[car] * 11]
    assert "not found" in fact["errors"][-1]


def test_every_sensor_arrives_in_its_own_class(start):
    (fact,) = start(
        """
        synchronous()
        library, spawns = world.get_blueprint_library(), world.get_map().get_spawn_points()
        car = world.spawn_actor(library.find("vehicle.tesla.model3"), spawns[0])
        got, sensors = {}, []
        for name in (
            "camera.rgb", "camera.depth", "camera.semantic_segmentation",
            "camera.instance_segmentation", "lidar.ray_cast", "lidar.ray_cast_semantic",
            "other.radar", "other.gnss", "other.imu", "other.obstacle",
        ):
            blueprint = library.find("sensor." + name)
            for key, value in dict(
                image_size_x=32, image_size_y=16, points_per_second=2000, distance=60,
                only_dynamics="false",
            ).items():
                if blueprint.has_attribute(key):
                    blueprint.set_attribute(key, str(value))
            place = carla.Transform(carla.Location(x=3.0, z=1.0))
            sensor = world.spawn_actor(blueprint, place, attach_to=car)
            got[name] = queue.Queue()
            sensor.listen(got[name].put)
            sensors.append(sensor)
        ahead = spawns[0].transform(carla.Location(x=12.0))
        wall = carla.Transform(ahead, spawns[0].rotation)
        world.spawn_actor(library.find("vehicle.tesla.model3"), wall)
        frames = [world.tick() for _ in range(3)]
        facts = {}
        for name, readings in got.items():
            try:
                seen = [readings.get(timeout=20) for _ in range(3)]
            except queue.Empty:
                facts[name] = ["nothing", False, None]
                continue
            last = seen[-1]
            extra = None
            if "camera" in name:
                extra = len(bytes(last.raw_data))
            elif name == "lidar.ray_cast":
                extra = [len(last), last.get_point_count(31), last.channels]
            elif name == "lidar.ray_cast_semantic":
                extra = sorted({point.object_tag for point in last})
            elif name == "other.radar":
                extra = len(last)
            elif name == "other.imu":
                extra = last.accelerometer.z
            elif name == "other.obstacle":
                extra = [last.other_actor.type_id, last.distance]
            facts[name] = [type(last).__name__, [s.frame for s in seen] == frames, extra]
        for sensor in sensors:
            sensor.stop()
            sensor.destroy()
        show(**facts)
        """
    ).done()
    kinds = {name: fact[name][0] for name in fact}
    assert kinds == {
        "camera.rgb": "Image",
        "camera.depth": "Image",
        "camera.semantic_segmentation": "Image",
        "camera.instance_segmentation": "Image",
        "lidar.ray_cast": "LidarMeasurement",
        "lidar.ray_cast_semantic": "SemanticLidarMeasurement",
        "other.radar": "RadarMeasurement",
        "other.gnss": "GnssMeasurement",
        "other.imu": "IMUMeasurement",
        "other.obstacle": "ObstacleDetectionEvent",
    }
    assert all(fact[name][1] for name in fact), "a frame is missing"
    assert fact["camera.rgb"][2] == 32 * 16 * 4
    count, lowest, channels = fact["lidar.ray_cast"][2]
    assert 0 < lowest <= count
    assert channels == 32
    assert set(fact["lidar.ray_cast_semantic"][2]) <= set(range(29))
    assert fact["other.radar"][2] > 0
    assert abs(fact["other.imu"][2]) < 20.0  # it falls on its wheels
    assert fact["other.obstacle"][2][0] == "vehicle.tesla.model3"
    assert 5 < fact["other.obstacle"][2][1] < 12


def test_towns_are_loaded_by_name(server, start):
    facts = start(
        """
        names = client.get_available_maps()
        maps = [world.get_map().name]
        other = client.load_world("Town01_Opt")
        maps.append(other.get_map().name)
        again = client.reload_world()
        maps.append(again.get_map().name)
        generated = client.load_world("procedural:4")
        maps.append(generated.get_map().name)
        try:
            client.load_world("Atlantis")
        except RuntimeError as error:
            missing = str(error)
        show(
            names=names, maps=maps, missing=missing, actors=len(generated.get_actors()),
            episodes=[world.id, other.id, again.id, generated.id],
        )
        """
    ).done()
    (fact,) = facts
    assert "/Game/Carla/Maps/Town01" in fact["names"]
    assert fact["maps"] == [
        f"Carla/Maps/{name}" for name in ("Procedural0", "Town01", "Town01", "Procedural4")
    ]
    assert fact["missing"].startswith("Map 'Atlantis' not found.")
    assert "Town01" in fact["missing"]
    assert fact["actors"] > 0
    assert fact["episodes"] == sorted(set(fact["episodes"]))


def test_client_sends_a_map_of_its_own(start):
    from apps.driving.world.maps.procedural import generate

    text = generate(9, blocks=2)
    (fact,) = start(
        f"""
        text = {text!r}
        try:
            client.generate_opendrive_world("<x/>")
        except RuntimeError as error:
            refused = str(error)
        mine = client.generate_opendrive_world(text, carla.OpendriveGenerationParameters())
        show(refused=refused, name=mine.get_map().name, points=len(mine.get_map().get_spawn_points()))
        """
    ).done()
    assert "OpenDRIVE" in fact["refused"]
    assert "/" not in fact["refused"].partition("<")[0]  # no file of the server's
    assert fact["name"] == "Carla/Maps/OpenDriveMap"
    assert fact["points"] > 0


def test_traffic_manager_drives_and_is_found_by_another_client(server, start):
    owner = start(
        """
        from apps.driving.simulator.waker import Waker

        synchronous()
        world = client.reload_world(False)
        manager = client.get_trafficmanager(manager_port)
        manager.set_synchronous_mode(True)
        manager.set_random_device_seed(1)
        blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")
        spawns = world.get_map().get_spawn_points()
        cars = [world.spawn_actor(blueprint, spawns[i]) for i in (0, 10, 20)]
        for car in cars:
            car.set_autopilot(True, manager_port)
        tick = Waker(manager_port).tick
        tick(world, 20.0)
        starts = [car.get_location() for car in cars]
        for _ in range(200):
            tick(world, 20.0)
        lanes = [world.get_map().get_waypoint(car.get_location()).transform.location for car in cars]
        show(
            gone=[car.get_location().distance(place) for car, place in zip(cars, starts)],
            off=max(car.get_location().distance(lane) for car, lane in zip(cars, lanes)),
            port=manager_port,
        )
        time.sleep(60)
        """
    )
    fact = owner.facts()
    assert max(fact["gone"]) > 10.0
    assert fact["off"] < 2.0
    port = fact["port"]
    other = start(f"manager = client.get_trafficmanager({port}); show(port=manager.get_port())")
    assert other.done() == [{"port": port}]
    owner.kill()
    end = time.monotonic() + 10
    while port in server.handlers.managers and time.monotonic() < end:
        time.sleep(0.01)
    # The manager died with its process; the next client starts one of its own there.
    after = start(f"manager = client.get_trafficmanager({port}); show(port=manager.get_port())")
    assert after.done() == [{"port": port}]


STREAMS = """
import hashlib

synchronous()
library, spawns = world.get_blueprint_library(), world.get_map().get_spawn_points()
car = world.spawn_actor(library.find("vehicle.tesla.model3"), spawns[0])
digest, queues, sensors = hashlib.sha256(), [], []
for name in ("sensor.camera.rgb", "sensor.other.imu"):
    blueprint = library.find(name)
    if blueprint.has_attribute("image_size_x"):
        blueprint.set_attribute("image_size_x", "64")
        blueprint.set_attribute("image_size_y", "32")
    sensor = world.spawn_actor(blueprint, carla.Transform(carla.Location(z=2.0)), attach_to=car)
    queues.append(queue.Queue())
    sensor.listen(queues[-1].put)
    sensors.append(sensor)  # the client stops a sensor that nobody holds
for i in range(20):
    car.apply_control(carla.VehicleControl(throttle=0.7, steer=0.1 * (i % 3)))
    frame = world.tick()
    image, imu = (q.get(timeout=20) for q in queues)
    assert image.frame == imu.frame == frame
    digest.update(bytes(image.raw_data) + f"{image.frame} {image.timestamp} {imu}".encode())
    for state in sorted(world.get_snapshot(), key=lambda state: state.id):
        digest.update(f"{state.id} {state.get_transform()} {state.get_velocity()}".encode())
for sensor in sensors:
    sensor.stop()
show(digest=digest.hexdigest(), frame=frame)
"""


def test_same_commands_give_the_same_streams_on_fresh_servers(town, tmp_path):
    seen = []
    for wait in (0.0, 0.4):
        with serve("procedural:0", traffic=4, walkers=2) as port:
            program = Program(port, f"time.sleep({wait})\n" + STREAMS, tmp_path)
            seen += program.done()
    assert seen[0] == seen[1]


def test_reloading_in_synchronous_mode_repeats_the_episode(start):
    (fact,) = start(
        """
        synchronous()
        seen = []
        for _ in range(2):
            world = client.reload_world(False)
            for _ in range(10):
                world.tick()
            snapshot = world.get_snapshot()
            states = sorted(snapshot, key=lambda state: state.id)
            seen.append([f"{s.id} {s.get_transform()}" for s in states] + [snapshot.elapsed_seconds])
        show(same=seen[0] == seen[1], kept=world.get_settings().synchronous_mode, n=len(seen[0]))
        """
    ).done()
    assert fact["same"]
    assert fact["kept"]
    assert fact["n"] > 10


def test_synchronous_from_the_start_stands_still(tmp_path):
    with serve("procedural:0", synchronous=True) as port:
        (fact,) = Program(
            port,
            """
            # A client of a synchronous world does not wait for the first state to arrive.
            deadline = time.monotonic() + 30
            while not (before := world.get_snapshot().frame) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            show(
                still=world.get_snapshot().frame == before,
                on=world.tick() == before + 1,
                step=world.get_settings().fixed_delta_seconds,
            )
            """,
            tmp_path,
        ).done()
    assert fact == {"still": True, "on": True, "step": 0.05}


def test_asynchronous_mode_keeps_real_time(start):
    (fact,) = start(
        """
        first = world.wait_for_tick().timestamp
        started = time.monotonic()
        while time.monotonic() - started < 1.5:
            last = world.wait_for_tick().timestamp
        show(
            simulated=last.elapsed_seconds - first.elapsed_seconds,
            ticks=last.frame - first.frame,
        )
        """
    ).done()
    # A busy machine makes it slower, none makes it faster.
    assert 0.8 < fact["simulated"] < 1.8
    assert 10 < fact["ticks"] < 40


def test_client_killed_mid_tick_leaves_the_world_running(start):
    victim = start(
        """
        synchronous()
        blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")
        car = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[0])
        show(ticking=True, car=car.id)
        while True:
            world.tick()
        """
    )
    car = victim.facts()["car"]
    time.sleep(0.2)
    victim.kill()
    (fact,) = start(
        f"""
        before = world.get_snapshot().frame
        frames = [world.tick() for _ in range(5)]
        car = world.get_actor({car})
        # five of its own, and at most one that the victim had asked for
        on = all(a < b for a, b in zip([before, *frames], frames)) and frames[-1] <= before + 6
        show(on=on, car=car.type_id, gone=car.destroy())
        """
    ).done()
    assert fact == {"on": True, "car": "vehicle.tesla.model3", "gone": True}


def test_several_clients_see_one_world(start):
    painter = start(
        """
        synchronous()
        blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")
        car = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[0])
        world.tick()
        show(car=car.id)
        while True:
            time.sleep(0.02)
            world.tick()
        """
    )
    car = painter.facts()["car"]
    watchers = [
        start(
            f"""
            seen = world.wait_for_tick(5.0)
            show(sees=seen.find({car}) is not None, sync=world.get_settings().synchronous_mode)
            """
        )
        for _ in range(3)
    ]
    for watcher in watchers:
        assert watcher.done() == [{"sees": True, "sync": True}]


def test_reader_that_stops_is_not_waited_for(server, start):
    """A client that subscribes to a camera and then stands still costs others little."""
    stopped = start(
        """
        synchronous()
        library, spawns = world.get_blueprint_library(), world.get_map().get_spawn_points()
        blueprint = library.find("sensor.camera.rgb")
        blueprint.set_attribute("image_size_x", "800")
        blueprint.set_attribute("image_size_y", "800")
        camera = world.spawn_actor(blueprint, spawns[0])
        camera.listen(lambda image: None)
        world.tick()
        show(ready=True)
        time.sleep(60)
        """
    )
    stopped.facts()
    stopped.process.send_signal(signal.SIGSTOP)
    (fact,) = start(
        """
        started = time.monotonic()
        for _ in range(20):
            world.tick()
        show(seconds=time.monotonic() - started)
        """
    ).done()
    assert fact["seconds"] < 20
    stopped.process.send_signal(signal.SIGCONT)


def test_raw_nonsense_on_both_ports_disturbs_nobody(server, start):
    program = start(
        """
        show(ready=True)
        for _ in range(20):
            world.wait_for_tick(5.0)
        show(version=client.get_server_version())
        """
    )
    program.facts()
    for port in (server.port, server.stream_port):
        for data in (
            b"\\xff" * 100,
            b"GET / HTTP/1.0\\r\\n\\r\\n",
            struct.pack("<I", 99) + b"x" * 1000,
            b"",
        ):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(data)
    assert program.done() == [{"version": "0.9.16"}]


# --- ports


def test_port_in_use_names_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} of 127.0.0.1 is in use"):
            bind(port)


def test_streams_take_another_port_when_the_next_is_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] - 1
        try:
            calls, streams = bind(port)
        except ResourceError:
            pytest.skip("the port before is in use, too")
        with calls, streams:
            assert calls.getsockname() == ("127.0.0.1", port)
            assert streams.getsockname()[1] not in (port, port + 1)


@pytest.mark.parametrize("port", [-1, 65536])
def test_no_port(port):
    with pytest.raises(UsageError, match=f"port {port}"):
        bind(port)


def test_serve_ends_and_leaves_the_port_free():
    with serve("procedural:0") as port, socket.create_connection(("127.0.0.1", port)):
        pass
    calls, streams = bind(port)
    calls.close()
    streams.close()


def test_serve_fails_as_the_world_does():
    with pytest.raises(UsageError, match="renderer"), serve("procedural:0", renderer="crayon"):
        pass


def test_a_client_in_the_same_process(tmp_path):
    """As in the README: the client keeps Python's lock while it waits, so the world must not need it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import carla\n"
        "from apps.driving.world import serve\n"
        "with serve('procedural:0', synchronous=True) as port:\n"
        "    client = carla.Client('127.0.0.1', port)\n"
        "    client.set_timeout(20.0)\n"
        "    world = client.get_world()\n"
        "    print(world.get_map().name, world.tick() > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["Carla/Maps/Procedural0", "True"], done.stderr


def test_the_world_ends_with_whoever_started_it(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "from apps.driving.world import serve\n"
        "with serve('procedural:0') as port:\n"
        "    print(port, flush=True)\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 9
    port = int(done.stdout)
    for _ in range(100):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    pytest.fail("the world still listens")


@pytest.mark.parametrize(
    ("town", "error"), [("/nowhere/town.xodr", DataError), ("procedural:x", UsageError)]
)
def test_serve_raises_what_the_command_says(town, error):
    with pytest.raises(error, match=re.escape(town)), serve(town):
        pass


def test_serve_names_a_busy_port():
    calls, streams = bind(0)
    port = calls.getsockname()[1]
    with calls, streams, pytest.raises(ResourceError, match=f"port {port}"), serve(port=port):
        pass
