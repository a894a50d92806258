"""Every call that CARLA 0.9.16's client can make, and what becomes of it here.

The names, the order of the parameters and whether the client waits for the answer were read from
the 0.9.16 wheel: the methods of ``carla::client::detail::Client`` in its debugging information, the
strings they refer to, and recordings of what it sends (compare LibCarla's
``client/detail/Client.cpp`` and ``CarlaServer.cpp`` of carla-simulator/carla). ``COMMANDS`` are those
that travel inside ``apply_batch``, in the order of ``carla::rpc::Command::CommandType`` there.

This file is data: ``CALLS`` decides what the server does with a call, tests check that each served
one has a handler, and the table in the documentation is made from ``table``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    SERVED = "served"
    RECORDED = "accepted and recorded"  # answered as if done; the note says what is left out
    REFUSED = "refused"  # answered with an error that names the call


class Answer(StrEnum):
    VALUE = "value"  # carla::rpc::Response<T>
    VOID = "void"  # carla::rpc::Response<void>
    NONE = "nobody waits"  # Response<void>, which the client throws away
    LIST = "list"  # no Response around it: only apply_batch


@dataclass(frozen=True)
class Call:
    """One remote call. ``parameters`` are names in ``values.PARAMETERS``."""

    name: str
    parameters: tuple[str, ...]
    answer: Answer
    python: tuple[str, ...]  # the methods of the Python API that make it
    status: Status
    note: str = ""


VALUE, VOID, NONE, LIST = Answer
SERVED, RECORDED, REFUSED = Status


def _call(
    name: str,
    parameters: str,
    answer: Answer,
    python: str,
    status: Status = SERVED,
    note: str = "",
) -> Call:
    return Call(name, tuple(parameters.split()), answer, tuple(python.split()), status, note)


_NO_RECORDER = "nothing is recorded: keep the seed and the commands, and the episode repeats"
_NO_BONES = "actors are boxes without a skeleton"
_NO_PARTS = "actors are boxes without components or sockets"
_NO_TEXTURES = "surfaces have no textures that could be replaced"
_NO_ROS = "no ROS 2 publisher is built in"
_NO_GBUFFER = "the renderer keeps no G-buffer"
_ONE_PHYSICS = "vehicles have one model of motion"

_ALL = (
    # --- connecting
    _call("version", "", VALUE, "Client.get_server_version"),
    _call("get_episode_info", "", VALUE, "Client.get_world"),
    _call("get_sensor_token", "stream", VALUE, "Client.get_world Sensor.listen"),
    _call("get_episode_settings", "", VALUE, "World.get_settings"),
    _call("set_episode_settings", "settings", VALUE, "World.apply_settings"),
    _call("tick_cue", "", VALUE, "World.tick"),
    # --- maps
    _call("get_available_maps", "", VALUE, "Client.get_available_maps"),
    _call(
        "load_new_episode",
        "name enabled layers",
        VOID,
        "Client.load_world Client.load_world_if_different Client.reload_world",
        note="towns of the folder the server was started with, procedural:SEED, and the present "
        "one; layers are not kept apart",
    ),
    _call(
        "copy_opendrive_to_file",
        "opendrive generation",
        VOID,
        "Client.generate_opendrive_world",
        note="walls and mesh parameters have no effect",
    ),
    _call(
        "load_map_layer", "layers", VOID, "World.load_map_layer", RECORDED, "nothing is shown anew"
    ),
    _call(
        "unload_map_layer", "layers", VOID, "World.unload_map_layer", RECORDED, "nothing is hidden"
    ),
    _call("get_map_info", "", VALUE, "World.get_map"),
    _call("get_map_data", "", VALUE, "World.get_map"),
    _call("get_required_files", "name", VALUE, "Client.get_required_files World.tick"),
    _call(
        "request_file",
        "name",
        VALUE,
        "Client.request_file World.tick World.get_random_location_from_navigation",
    ),
    _call("get_navigation_mesh", "", VALUE, ""),
    # --- the world
    _call("get_actor_definitions", "", VALUE, "World.get_blueprint_library"),
    _call("get_spectator", "", VALUE, "World.get_spectator"),
    _call("get_weather_parameters", "", VALUE, "World.get_weather"),
    _call("set_weather_parameters", "weather", NONE, "World.set_weather"),
    _call("get_imui_gravity", "", VALUE, "World.get_imui_sensor_gravity"),
    _call("set_imui_gravity", "gravity", NONE, "World.set_imui_sensor_gravity"),
    _call("get_names_of_all_objects", "", VALUE, "World.get_names_of_all_objects"),
    _call("get_all_level_BBs", "tag", VALUE, "World.get_level_bbs"),
    _call("get_environment_objects", "tag", VALUE, "World.get_environment_objects"),
    _call(
        "enable_environment_objects", "objects enabled", NONE, "World.enable_environment_objects"
    ),
    _call("cast_ray", "location location", VALUE, "World.cast_ray"),
    _call(
        "project_point",
        "location vector distance",
        VALUE,
        "World.project_point World.ground_projection",
    ),
    _call(
        "set_annotations_traverse_translucency",
        "enabled",
        NONE,
        "World.set_annotations_traverse_translucency",
        RECORDED,
        "nothing here is translucent",
    ),
    *(
        _call(
            f"apply_{kind}texture_to_objects",
            "anything anything anything",
            VOID,
            f"World.apply_{kind}texture_to_object World.apply_{kind}texture_to_objects "
            "World.apply_textures_to_object World.apply_textures_to_objects",
            REFUSED,
            _NO_TEXTURES,
        )
        for kind in ("color_", "float_color_")
    ),
    # --- any actor
    _call("get_actors_by_id", "actors", VALUE, "World.get_actors World.get_actor Sensor.listen"),
    _call("spawn_actor", "description transform", VALUE, "World.spawn_actor World.try_spawn_actor"),
    _call(
        "spawn_actor_with_parent",
        "description transform parent attachment socket",
        VALUE,
        "World.spawn_actor World.try_spawn_actor",
        note="refused for a socket: " + _NO_PARTS,
    ),
    _call("destroy_actor", "actor", VALUE, "Actor.destroy"),
    _call("set_actor_location", "actor location", NONE, "Actor.set_location"),
    _call("set_actor_transform", "actor transform", NONE, "Actor.set_transform"),
    _call("set_actor_target_velocity", "actor vector", NONE, "Actor.set_target_velocity"),
    _call(
        "set_actor_target_angular_velocity",
        "actor vector",
        NONE,
        "Actor.set_target_angular_velocity",
    ),
    _call("enable_actor_constant_velocity", "actor vector", NONE, "Actor.enable_constant_velocity"),
    _call("disable_actor_constant_velocity", "actor", NONE, "Actor.disable_constant_velocity"),
    _call("add_actor_impulse", "actor vector", NONE, "Actor.add_impulse"),
    _call("add_actor_impulse_at_location", "actor vector location", NONE, ""),
    _call("add_actor_force", "actor vector", NONE, "Actor.add_force"),
    _call("add_actor_force_at_location", "actor vector location", NONE, ""),
    _call(
        "add_actor_angular_impulse",
        "actor vector",
        NONE,
        "Actor.add_angular_impulse Actor.add_torque",
        note="0.9.16's client sends this for add_torque, too",
    ),
    _call("add_actor_torque", "actor vector", NONE, ""),
    _call("set_actor_simulate_physics", "actor enabled", VOID, "Actor.set_simulate_physics"),
    _call("set_actor_collisions", "actor enabled", VOID, "Actor.set_collisions"),
    _call("set_actor_enable_gravity", "actor enabled", NONE, "Actor.set_enable_gravity"),
    _call("set_actor_dead", "actor", NONE, ""),
    _call("get_actor_bounding_box", "actor", VALUE, ""),
    *(
        _call(
            f"get_actor_{call}",
            parameters,
            VALUE,
            f"Actor.get_{call}",
            REFUSED,
            _NO_BONES if "bone" in call else _NO_PARTS,
        )
        for call, parameters in (
            ("component_names", "actor"),
            ("component_world_transform", "actor name"),
            ("component_relative_transform", "actor name"),
            ("bone_names", "actor"),
            ("bone_world_transforms", "actor"),
            ("bone_relative_transforms", "actor"),
            ("socket_names", "actor"),
            ("socket_world_transforms", "actor"),
            ("socket_relative_transforms", "actor"),
        )
    ),
    # --- vehicles
    _call("apply_control_to_vehicle", "actor control", NONE, "Vehicle.apply_control"),
    _call(
        "apply_ackermann_control_to_vehicle",
        "actor ackermann",
        NONE,
        "Vehicle.apply_ackermann_control",
    ),
    _call(
        "get_ackermann_controller_settings",
        "actor",
        VALUE,
        "Vehicle.get_ackermann_controller_settings",
    ),
    _call(
        "apply_ackermann_controller_settings",
        "actor ackermann_settings",
        NONE,
        "Vehicle.apply_ackermann_controller_settings",
    ),
    _call("get_physics_control", "actor", VALUE, "Vehicle.get_physics_control"),
    _call("apply_physics_control", "actor physics", NONE, "Vehicle.apply_physics_control"),
    _call(
        "set_actor_autopilot",
        "actor enabled",
        NONE,
        "",
        RECORDED,
        "sent by command.SetAutopilot beside CARLA's traffic manager, which drives from the client",
    ),
    _call("get_telemetry_data", "actor", VALUE, "Vehicle.get_telemetry_data"),
    _call(
        "show_vehicle_debug_telemetry",
        "actor enabled",
        NONE,
        "Vehicle.show_debug_telemetry",
        RECORDED,
        "there is no window to show it in",
    ),
    _call("get_vehicle_light_state", "actor", VALUE, "Vehicle.get_light_state"),
    _call("set_vehicle_light_state", "actor lights", NONE, "Vehicle.set_light_state"),
    _call("get_vehicle_light_states", "", VALUE, "World.get_vehicles_light_states"),
    _call("open_vehicle_door", "actor door", NONE, "Vehicle.open_door"),
    _call("close_vehicle_door", "actor door", NONE, "Vehicle.close_door"),
    _call("get_wheel_steer_angle", "actor wheel", VALUE, "Vehicle.get_wheel_steer_angle"),
    _call(
        "set_wheel_steer_direction", "actor wheel angle", NONE, "Vehicle.set_wheel_steer_direction"
    ),
    _call(
        "get_wheel_pitch_angle",
        "actor wheel",
        VALUE,
        "Vehicle.get_wheel_pitch_angle",
        REFUSED,
        "wheels are not drawn",
    ),
    _call(
        "set_wheel_pitch_angle",
        "actor wheel angle",
        NONE,
        "Vehicle.set_wheel_pitch_angle",
        REFUSED,
        "wheels are not drawn",
    ),
    _call(
        "get_vehicle_bone_world_transforms",
        "actor",
        VALUE,
        "Vehicle.get_vehicle_bone_world_transforms",
        REFUSED,
        _NO_BONES,
    ),
    _call("enable_carsim", "actor name", NONE, "Vehicle.enable_carsim", REFUSED, _ONE_PHYSICS),
    _call(
        "use_carsim_road", "actor enabled", NONE, "Vehicle.use_carsim_road", REFUSED, _ONE_PHYSICS
    ),
    _call(
        "enable_chrono_physics",
        "actor anything anything anything anything anything anything",
        NONE,
        "Vehicle.enable_chrono_physics",
        REFUSED,
        _ONE_PHYSICS,
    ),
    _call(
        "restore_physx_physics",
        "actor",
        NONE,
        "Vehicle.restore_physx_physics",
        RECORDED,
        _ONE_PHYSICS,
    ),
    # --- walkers
    _call("apply_control_to_walker", "actor walker_control", NONE, "Walker.apply_control"),
    _call("get_bones_transform", "actor", VALUE, "Walker.get_bones", REFUSED, _NO_BONES),
    _call("set_bones_transform", "actor anything", NONE, "Walker.set_bones", REFUSED, _NO_BONES),
    _call(
        "blend_pose",
        "actor blend",
        NONE,
        "Walker.blend_pose Walker.show_pose Walker.hide_pose",
        REFUSED,
        _NO_BONES,
    ),
    _call(
        "get_pose_from_animation",
        "actor",
        NONE,
        "Walker.get_pose_from_animation",
        REFUSED,
        _NO_BONES,
    ),
    # --- traffic lights
    _call("set_traffic_light_state", "actor state", NONE, "TrafficLight.set_state"),
    _call("set_traffic_light_green_time", "actor seconds", NONE, "TrafficLight.set_green_time"),
    _call("set_traffic_light_yellow_time", "actor seconds", NONE, "TrafficLight.set_yellow_time"),
    _call("set_traffic_light_red_time", "actor seconds", NONE, "TrafficLight.set_red_time"),
    _call("freeze_traffic_light", "actor enabled", NONE, ""),
    _call(
        "freeze_all_traffic_lights",
        "enabled",
        NONE,
        "World.freeze_all_traffic_lights TrafficLight.freeze",
        note="0.9.16's client sends this for TrafficLight.freeze, too",
    ),
    _call("reset_traffic_light_group", "actor", NONE, "TrafficLight.reset_group"),
    _call("reset_all_traffic_lights", "", VOID, "World.reset_all_traffic_lights"),
    _call("get_group_traffic_lights", "actor", VALUE, "TrafficLight.get_group_traffic_lights"),
    _call("get_light_boxes", "actor", VALUE, "TrafficLight.get_light_boxes"),
    # --- street lights
    _call("query_lights_state", "endpoint", VALUE, "World.get_lightmanager"),
    _call(
        "update_lights_state",
        "endpoint lamps enabled",
        NONE,
        "LightManager.turn_on LightManager.turn_off LightManager.set_active "
        "LightManager.set_color LightManager.set_colors LightManager.set_intensity "
        "LightManager.set_intensities LightManager.set_light_group LightManager.set_light_groups "
        "LightManager.set_light_state LightManager.set_light_states Light.turn_on Light.turn_off "
        "Light.set_color Light.set_intensity Light.set_light_group Light.set_light_state",
        RECORDED,
        "given back when asked; in pictures street lights follow the sun",
    ),
    _call(
        "update_day_night_cycle",
        "endpoint enabled",
        NONE,
        "LightManager.set_day_night_cycle",
        RECORDED,
        "in pictures street lights follow the sun",
    ),
    # --- sensors
    _call(
        "enable_sensor_for_ros", "stream", NONE, "ServerSideSensor.enable_for_ros", REFUSED, _NO_ROS
    ),
    _call(
        "disable_sensor_for_ros",
        "stream",
        NONE,
        "ServerSideSensor.disable_for_ros",
        RECORDED,
        _NO_ROS,
    ),
    _call(
        "is_sensor_enabled_for_ros",
        "stream",
        VALUE,
        "ServerSideSensor.is_enabled_for_ros",
        note="always false: " + _NO_ROS,
    ),
    _call(
        "enable_gbuffers",
        "actor enabled",
        VOID,
        "ServerSideSensor.enable_gbuffers",
        REFUSED,
        _NO_GBUFFER,
    ),
    _call("are_gbuffers_enabled", "actor", VALUE, "", note="always false: " + _NO_GBUFFER),
    _call(
        "get_gbuffer_token",
        "actor anything",
        VALUE,
        "ServerSideSensor.listen_to_gbuffer ServerSideSensor.stop_gbuffer",
        REFUSED,
        _NO_GBUFFER,
    ),
    _call(
        "set_ignored_vehicles",
        "actor actors",
        VOID,
        "ServerSideSensor.set_ignored_vehicles",
        REFUSED,
        "sensors see every vehicle",
    ),
    _call("send", "actor name", NONE, "ServerSideSensor.send", REFUSED, "there is no V2X sensor"),
    # --- traffic manager: it runs in a client; the server only keeps its address
    _call("is_traffic_manager_running", "port", VALUE, "Client.get_trafficmanager"),
    _call("get_traffic_manager_running", "port", VALUE, "Client.get_trafficmanager"),
    _call("add_traffic_manager_running", "manager", VALUE, "Client.get_trafficmanager"),
    _call("destroy_traffic_manager", "port", NONE, "TrafficManager.shut_down"),
    # --- batches
    _call(
        "apply_batch",
        "commands enabled",
        LIST,
        "Client.apply_batch Client.apply_batch_sync",
        note="with do_tick 0.9.16's client holds Python's lock while it waits, and may time out when "
        "sensors are listening: tick with World.tick instead",
    ),
    # --- debugging
    _call(
        "draw_debug_shape",
        "shape",
        NONE,
        "DebugHelper.draw_point DebugHelper.draw_line DebugHelper.draw_arrow "
        "DebugHelper.draw_box DebugHelper.draw_string DebugHelper.draw_hud_point "
        "DebugHelper.draw_hud_line DebugHelper.draw_hud_arrow DebugHelper.draw_hud_box",
        RECORDED,
        "kept in the world's list of shapes; cameras do not see them",
    ),
    _call("clear_debug_shape", "", NONE, "DebugHelper.clear_debug_shape"),
    _call("clear_debug_string", "", NONE, "DebugHelper.clear_debug_string"),
    # --- recorder
    *(
        _call(name, parameters, answer, f"Client.{name}", REFUSED, _NO_RECORDER)
        for name, parameters, answer in (
            ("start_recorder", "name enabled", VALUE),
            ("stop_recorder", "", NONE),
            ("show_recorder_file_info", "name enabled", VALUE),
            ("show_recorder_collisions", "name anything anything", VALUE),
            ("show_recorder_actors_blocked", "name seconds distance", VALUE),
            ("replay_file", "name seconds seconds actor enabled transform", VALUE),
            ("stop_replayer", "enabled", NONE),
            ("set_replayer_time_factor", "factor", NONE),
            ("set_replayer_ignore_hero", "enabled", NONE),
            ("set_replayer_ignore_spectator", "enabled", NONE),
        )
    ),
)

CALLS: dict[str, Call] = {call.name: call for call in _ALL}


#: What the client does by itself, from the map, from what streams bring and from earlier answers.
#: WalkerAIController walks on the navigation file and TrafficManager drives with ``apply_batch``.
CLIENT_SIDE: dict[str, str] = {
    "Client": "set_timeout get_client_version set_files_base_folder",
    "World": "id debug get_snapshot wait_for_tick on_tick remove_on_tick set_pedestrians_seed "
    "set_pedestrians_cross_factor get_traffic_sign get_traffic_light "
    "get_traffic_light_from_opendrive_id get_traffic_lights_from_waypoint "
    "get_traffic_lights_in_junction",
    "Actor": "id type_id parent semantic_tags actor_state is_alive is_dormant is_active attributes "
    "bounding_box get_world get_location get_transform get_velocity get_angular_velocity "
    "get_acceleration",
    "Vehicle": "get_control set_autopilot get_speed_limit get_traffic_light_state "
    "is_at_traffic_light get_traffic_light get_failure_state",
    "Walker": "get_control",
    "WalkerAIController": "start stop go_to_location set_max_speed",
    "TrafficSign": "trigger_volume",
    "TrafficLight": "state get_state get_green_time get_yellow_time get_red_time get_elapsed_time "
    "is_frozen get_pole_index get_affected_lane_waypoints get_opendrive_id get_stop_waypoints",
    "Sensor": "is_listening stop",
    "ServerSideSensor": "get_ignored_vehicles is_listening_gbuffer",
    "LightManager": "get_all_lights is_active get_turned_on_lights get_turned_off_lights get_color "
    "get_intensity get_light_group get_light_state",
    "Light": "color id intensity is_on location light_group light_state",
    "TrafficManager": "get_port vehicle_percentage_speed_difference vehicle_lane_offset "
    "set_desired_speed global_percentage_speed_difference global_lane_offset update_vehicle_lights "
    "collision_detection force_lane_change auto_lane_change distance_to_leading_vehicle "
    "ignore_walkers_percentage ignore_vehicles_percentage ignore_lights_percentage "
    "ignore_signs_percentage set_global_distance_to_leading_vehicle keep_slow_lane_rule_percentage "
    "random_left_lanechange_percentage random_right_lanechange_percentage set_synchronous_mode "
    "set_hybrid_physics_mode set_hybrid_physics_radius set_random_device_seed set_osm_mode "
    "set_path set_route set_respawn_dormant_vehicles set_boundaries_respawn_dormant_vehicles "
    "get_next_action get_all_actions",
}


@dataclass(frozen=True)
class Command:
    """One kind of command: its name in ``carla.command``, its fields, the call it stands for."""

    name: str
    fields: tuple[str, ...]
    call: str  # empty: refused

    @property
    def status(self) -> Status:
        call = CALLS.get(self.call)
        return REFUSED if not self.call else SERVED if call is None else call.status


def _command(name: str, fields: str, call: str) -> Command:
    return Command(name, tuple(fields.split()), call)


#: What ``apply_batch`` carries, by index; SpawnActor and ConsoleCommand have fields of their own.
COMMANDS: tuple[Command, ...] = (
    _command("SpawnActor", "", "spawn_actor"),
    _command("DestroyActor", "actor", "destroy_actor"),
    _command("ApplyVehicleControl", "actor control", "apply_control_to_vehicle"),
    _command(
        "ApplyVehicleAckermannControl", "actor ackermann", "apply_ackermann_control_to_vehicle"
    ),
    _command("ApplyWalkerControl", "actor walker_control", "apply_control_to_walker"),
    _command("ApplyVehiclePhysicsControl", "actor physics", "apply_physics_control"),
    _command("ApplyTransform", "actor transform", "set_actor_transform"),
    _command("ApplyWalkerState", "actor transform speed", "set_walker_state"),
    _command("ApplyTargetVelocity", "actor vector", "set_actor_target_velocity"),
    _command("ApplyTargetAngularVelocity", "actor vector", "set_actor_target_angular_velocity"),
    _command("ApplyImpulse", "actor vector", "add_actor_impulse"),
    _command("ApplyForce", "actor vector", "add_actor_force"),
    _command("ApplyAngularImpulse", "actor vector", "add_actor_angular_impulse"),
    _command("ApplyTorque", "actor vector", "add_actor_torque"),
    _command("SetSimulatePhysics", "actor enabled", "set_actor_simulate_physics"),
    _command("SetEnableGravity", "actor enabled", "set_actor_enable_gravity"),
    _command("SetAutopilot", "actor enabled", "set_actor_autopilot"),
    _command("ShowDebugTelemetry", "actor enabled", "show_vehicle_debug_telemetry"),
    _command("SetVehicleLightState", "actor lights", "set_vehicle_light_state"),
    _command("ApplyLocation", "actor location", "set_actor_location"),
    _command("ConsoleCommand", "", ""),
    _command("SetTrafficLightState", "actor state", "set_traffic_light_state"),
)


def table() -> list[dict[str, str]]:
    """One row per call, for people: its name, who makes it, what becomes of it, what to know."""
    return [
        {
            "call": call.name,
            "python": ", ".join(call.python),
            "status": str(call.status),
            "note": call.note,
        }
        for call in _ALL
    ]


def command_table() -> list[dict[str, str]]:
    """The same for the commands of a batch."""
    return [{"command": c.name, "call": c.call, "status": str(c.status)} for c in COMMANDS]
