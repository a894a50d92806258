# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Driving in a simulated town: world, expert, network, score
#
# We start a town that CARLA's own client can connect to, draw routes through it, watch an expert
# drive one, let a small network that ships with the program drive the same, look at what went wrong
# and what it costs, record training data, train for a moment, and end at a Gymnasium environment.
#
# There is no Unreal Engine here and no GPU: the world is a process of this program. With
# `host="127.0.0.1"` the same functions drive in a CARLA 0.9.16 that runs there. Needs
# `pip install -e ".[driving,gym]"`. Each function is also a command of `python apps/driving/run.py`.

# %%
import os
import shutil
from pathlib import Path

import carla
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from apps.driving import (
    DrivingEnv,
    Trace,
    collect,
    draw_above,
    draw_routes,
    drive,
    list_agents,
    open_dataset,
    read_routes,
    serve,
    train,
)

# Jupyter starts a notebook in the notebook's folder; the paths below begin at the repository.
os.chdir(next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "samples").is_dir()))
FAST = bool(os.environ.get("NOTEBOOK_FAST"))  # shorter drives and trainings, for the tests
OUT = Path(os.environ.get("NOTEBOOK_OUT", "out/notebooks")) / "driving"
shutil.rmtree(OUT, ignore_errors=True)  # an earlier run's
TOWN = "procedural:902"
plt.rcParams.update({"figure.figsize": (10, 3), "axes.spines.top": False, "figure.dpi": 80})
plt.rcParams.update({"axes.spines.right": False, "legend.frameon": False})
pd.set_option("display.float_format", "{:.2f}".format)

# %% [markdown]
# ## A world
#
# `serve` runs one while the block runs. What is inside the block is plain CARLA: the `carla` package
# does not know that no CARLA is there. A town is an OpenDRIVE file, such as `samples/Town01.xodr`,
# or `procedural:SEED`, which is made up from a number. This one no shipped driver has learnt from.

# %%
with serve(TOWN, traffic=20) as port:
    client = carla.Client("127.0.0.1", port)
    client.set_timeout(60)
    world = client.get_world()
    town = world.get_map()
    lanes = [w.transform.location for w in town.generate_waypoints(2.0)]
    actors = world.get_actors()
    cars = [actor.get_location() for actor in actors.filter("vehicle.*")]
    lights = [actor.get_location() for actor in actors.filter("traffic.traffic_light*")]
    print(f"{town.name}: {len(cars)} cars, {len(lights)} traffic lights")


def streets(ax):
    """The lanes of the town, as CARLA counts: x to the right, y downwards."""
    ax.scatter([p.x for p in lanes], [p.y for p in lanes], s=1, color="0.75", lw=0)
    ax.set(aspect="equal", xlabel="x, m", ylabel="y, m")
    if not ax.yaxis_inverted():
        ax.invert_yaxis()


figure, ax = plt.subplots(figsize=(6, 6))
streets(ax)
ax.scatter([p.x for p in cars], [p.y for p in cars], s=14, label="cars")
ax.scatter([p.x for p in lights], [p.y for p in lights], s=14, marker="^", label="traffic lights")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## Routes
#
# A route is a start, a goal and perhaps a few points between, in the CARLA Leaderboard's file format;
# the way along the lanes is planned when it is driven. `draw_routes` draws some at random;
# `samples/routes.xml` has 23 through Town01.

# %%
about = draw_routes(TOWN, 2 if FAST else 4, OUT / "routes.xml", length=(100, 150))
routes = read_routes(OUT / "routes.xml")
figure, ax = plt.subplots(figsize=(6, 6))
streets(ax)
for route in routes:
    points = np.array(route.waypoints)
    label = f"{route.id}, {about['metres'][route.id]:.0f} m"
    ax.plot(points[:, 0], points[:, 1], marker="o", ms=4, label=label)
    ax.plot(*points[0, :2], marker="s", ms=8, color="black")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1), title="from the square")
plt.show()

# %% [markdown]
# ## Watch the expert
#
# These are the drivers that have names:

# %%
for name, what in list_agents().items():
    print(f"{name:<12} {what}")

# %% [markdown]
# `expert` sees the simulator's own state: every car, every light. It is the teacher that networks
# learn from, and the ceiling of what they can reach. `trace=True` writes what the car sees, means and
# does, decision by decision; `video=True` (as by default) films it as an MP4.

# %%
traffic = {"traffic": 15, "walkers": 8, "weather": "clear", "video": False, "trace": True}
traffic |= {"limit": 1, "max_seconds": 4 if FAST else 60}


def driven(agent):
    """One drive of the first route: its result, and its trace."""
    report = drive(TOWN, OUT / "routes.xml", agent, out=OUT / agent, **traffic)
    (row,) = report["routes"]
    print(f"{agent}: {row['status']}, {row['route_completion']:.0f} % in {row['duration_s']:.0f} s")
    return row, Trace(OUT / agent / f"{row['route']}.trace")


drives = {"expert": driven("expert")}
trace = drives["expert"][1]
print(f"{len(trace)} decisions over {trace.meta.length:.0f} m; pictures: {', '.join(trace.kinds)}")


# %%
def moment(trace, index):
    """What the three cameras saw at a decision, and the same from above."""
    _, (left, right) = plt.subplots(
        1, 2, figsize=(11, 2.4), width_ratios=(6, 2), layout="constrained"
    )
    tick = trace[index]
    left.imshow(trace.image(index, "rgb"))
    right.imshow(draw_above(trace, index, size=(320, 320)))
    left.set_title(
        f"{tick.time:.0f} s, {3.6 * tick.speed:.0f} km/h, {tick.completion:.0f} %"
        + (f", waits for {', '.join(tick.hazards)}" if tick.hazards else "")
    )
    for ax in (left, right):
        ax.axis("off")
    plt.show()


for share in (0.15, 0.5, 0.85):
    moment(trace, int(share * len(trace)))

# %% [markdown]
# From above: the route is blue, other vehicles cyan, walkers yellow, and the line at which a traffic
# light holds the cars has the light's colour.
#
# ## Let the network drive
#
# `small` is a LeTFuser (Agand et al., 2023) with 1.9 million parameters. It is given the pictures and
# depths of three cameras, its speed and the next point of a sparse route, and nothing else. `blind`
# is what it has to be compared with: it is not given any picture, follows the route at the limits of
# speed, and stops for nobody.

# %%
drives |= {agent: driven(agent) for agent in (("small",) if FAST else ("small", "blind"))}
trace = drives["small"][1]
for share in (0.15, 0.5, 0.85):
    moment(trace, int(share * len(trace)))

# %% [markdown]
# Green are the waypoints, where the network means to be in the next two seconds; the amber ring is
# the point of the route that it was told. What it takes the picture for is traced, too:

# %%
index = len(trace) // 2
figure, axes = plt.subplots(3, figsize=(9, 5.2), layout="constrained")
for ax, kind in zip(axes, ("rgb", "truth", "semantics"), strict=True):
    ax.imshow(trace.image(index, kind))
    ax.axis("off")
for ax, title in zip(axes, ("camera", "what is there", "what the network sees"), strict=True):
    ax.set_title(title, fontsize=9, loc="left")
plt.show()

# %% [markdown]
# ## The score
#
# Two of the Leaderboard's formulas are in use and their figures differ, so both are given: up to 2.0
# completion is multiplied by a factor for each infraction; 2.1 divides by one plus their sum.

# %%
table = {
    agent: {
        "status": row["status"],
        "completion, %": row["route_completion"],
        "score 2.1": row["driving_score_2_1"],
        "score 1.0": row["driving_score_1_0"],
        "a decision, ms": row["decision_ms"]["mean"],
        "infractions": "; ".join(one.message for one in trace.infractions) or "none",
    }
    for agent, (row, trace) in drives.items()
}
with pd.option_context("display.max_colwidth", None):
    display(pd.DataFrame(table).T)

# %%
figure, ax = plt.subplots(layout="constrained")
for number, (agent, (_, trace)) in enumerate(drives.items()):
    columns = trace.columns
    ax.plot(columns["time"], 3.6 * columns["speed"], color=f"C{number}", label=agent)
    for one in trace.infractions:
        ax.axvline(one.time, color=f"C{number}", ls=":", lw=1)
        ax.text(
            one.time, ax.get_ylim()[1], f" {one.message}", fontsize=8, color=f"C{number}", va="top"
        )
ax.set(xlabel="s", ylabel="km/h", ylim=(0, None), title="Speed, and infractions (dotted)")
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# One route is an anecdote (and this machine was a crowded one, hence the slow decisions): over six
# routes in towns that it never saw, `small` is not yet better than `blind` by itself; with
# `supervisor=True`, rules that brake for what the depth cameras see, it is (the table in the
# [README](../README.md#results)). `evaluate` makes such tables, over several routes and seeds and
# with intervals:
#
# ```python
# evaluate(TOWN, "routes.xml", ["small", "blind", "expert"], out="scores", seeds=(0, 1, 2))
# ```
#
# ## Record drives
#
# `collect` records the expert at two frames a second: pictures, depths, semantics and measurements in
# TransFuser's layout. One town to learn from, and another one to validate on.

# %%
FRAMES = 8 if FAST else 40
for seed, name in enumerate(("procedural:0", "procedural:1")):
    recorded = collect(name, FRAMES, OUT / "drives", seed=seed, traffic=6, walkers=4)
    print(f"{recorded['town']}: {recorded['frames']} frames of {recorded['routes']} routes")
dataset = open_dataset([OUT / "drives"])
print(f"{len(dataset)} samples of {', '.join(dataset.towns)}")

# %%
sample = dataset[len(dataset) // 3]
figure, axes = plt.subplots(2, 3, figsize=(11, 3.6), layout="constrained")
for view, (above, below) in enumerate(axes.T):
    above.imshow(sample.rgb[view])
    below.imshow(np.log10(np.maximum(sample.depth[view], 1)), cmap="magma_r", vmin=0, vmax=2.5)
    above.axis("off")
    below.axis("off")
axes[0, 1].set_title(f"{3.6 * sample.speed:.0f} km/h; colour above, depth below (near is bright)")
plt.show()

# %% [markdown]
# A sample is what the network learns from: it sees the pictures, the speed and the target, and shall
# tell the pedals, the wheel, and where the car was in the next two seconds.

# %%
steer, throttle, brake = sample.control
print(
    f"speed {sample.speed:.1f} m/s, target {sample.target.astype(float).round(1)} m ahead and to the right"
)
print(f"steer {steer:+.2f}, throttle {throttle:.2f}, brake {brake:.2f}")
print(f"waypoints, m: {sample.waypoints.astype(float).round(1).tolist()}")

# %% [markdown]
# ## Train
#
# The recipe is the real one, the budget is not: a few dozen steps on a few dozen frames show how it
# works, and make no driver (`small` had 4,553 steps on 12,535 frames). So the honest question is only
# whether anything is learnt: the error of the waypoints beside that of going straight on at constant
# speed, in a town that no frame was learnt from.

# %%
changes = ["batch=4", "warmup_steps=2", "val_every=2", "val_frames=4", "test_frames=4"]
if not FAST:
    changes = ["batch=8", "warmup_steps=5", "val_every=10", "log_every=2"]
done = train(
    [OUT / "drives"],
    model="small",
    out=OUT / "mine",
    max_steps=2 if FAST else 40,
    val_towns=["procedural_1"],
    options=changes,
)
course = pd.read_csv(OUT / "mine" / "run" / "metrics.csv", index_col="step")
display(course[["train_loss", "loss", "miou", "ade"]].rename(columns={"loss": "validation loss"}))
found = done.report()["metrics"]["validation"]
rows = {"this one": found["waypoints"], "constant speed": found["waypoints_constant_speed"]}
names = {"ade": "mean error, m", "fde": "after 2 s, m"}
display(pd.DataFrame(rows).T[list(names)].rename(columns=names))

# %% [markdown]
# The losses fall, and it is no match yet for going straight on. With its hundredfold training the
# shipped `small` is off by 0.45 m on routes that were held out, where constant speed is by 0.94 m
# ([its card](../weights/README.md#small-late-fusion)).
#
# `OUT / "mine"` is now a driver like the others: `drive(TOWN, routes, OUT / "mine", ...)` puts it at
# the wheel, and `train(..., model="weights/small")` would go on from the shipped one instead.
#
# ## A Gymnasium environment
#
# The same cars, routes and criteria, for whoever wants to learn by trying. Here a policy of four
# lines drives: towards the target, not faster than 20 km/h. It does not look, and an episode ends at
# the first collision.

# %%
env = DrivingEnv("procedural:1", cameras=("rgb",), render_mode="rgb_array", traffic=4)
observation, info = env.reset(seed=0)
log = []
for _ in range(5 if FAST else 120):
    ahead, right = observation["target"]
    steer = np.clip(1.5 * np.arctan2(right, max(ahead, 1.0)), -1, 1)
    pedal = 0.5 if observation["speed"][0] < 20 / 3.6 else -0.1
    observation, reward, terminated, truncated, info = env.step(np.array([pedal, steer]))
    log.append({"reward": reward, "speed": 3.6 * observation["speed"][0]})
    if terminated or truncated:
        break
picture = env.render()
env.close()
done = ", ".join(info["infractions"]) or info["status"]
print(f"{len(log)} steps, {info['completion']:.0f} % of {info['route']}: {done}")
print(f"reward {sum(row['reward'] for row in log):.1f}, metres of route less infractions")

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 2.4), width_ratios=(3, 2), layout="constrained"
)
left.imshow(picture)
left.axis("off")
pd.DataFrame(log).plot(ax=right, subplots=False, secondary_y=["speed"], xlabel="steps")
plt.show()

# %% [markdown]
# ## Where to go on
#
# - [docs/driving-agent.md](../docs/driving-agent.md): teacher, recordings, network, scores, and how
#   to use the driver in the Leaderboard's own evaluator.
# - [docs/driving.md](../docs/driving.md): what is and what is not as in CARLA.
# - [docs/python.md](../docs/python.md): the functions used here.
