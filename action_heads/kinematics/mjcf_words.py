"""The elements and attributes of MJCF that the reader of arms knows, and where they may occur."""

from __future__ import annotations

from action_heads.kinematics.markup import Kinds

GENERATORS = ("composite", "flexcomp", "attach", "replicate")
ORIENTATIONS = ("quat", "axisangle", "euler", "xyaxes", "zaxis")
# Attributes that are read from default classes, by tag.
READ = {
    "joint": ("type", "axis", "pos", "range", "limited", "ref"),
    "site": ("pos", *ORIENTATIONS),
    "equality": ("active", "polycoef"),
}
PLACED = ("pos", *ORIENTATIONS)
PARTS = ("geom", "site", "camera", "light", "inertial", "plugin", *GENERATORS)
LIMITED = ("stiffness", "damping", "armature", "margin", "user", "group", "springdamper", "springref", "frictionloss")
LIMITED += ("actuatorfrclimited", "actuatorfrcrange", "actuatorgravcomp", "solreflimit", "solimplimit")
LIMITED += ("solreffriction", "solimpfriction")
DEFAULTS = ("default", "joint", "mesh", "material", "geom", "site", "camera", "light", "pair", "equality", "tendon")
DEFAULTS += (
    "general",
    "motor",
    "position",
    "velocity",
    "intvelocity",
    "damper",
    "cylinder",
    "muscle",
    "adhesion",
    "flex",
)
HELD = ("name", "class", "active", "solref", "solimp")
ENDS = ("body1", "body2", "site1", "site2", "anchor", "relpose", "torquescale", *HELD)
SECTIONS = (
    "compiler",
    "option",
    "size",
    "visual",
    "statistic",
    "default",
    "asset",
    "worldbody",
    "deformable",
    "contact",
)
SECTIONS += ("equality", "tendon", "actuator", "sensor", "keyframe", "custom", "extension", "include")
# Other children and attributes of these elements are ignored.
ELEMENTS: Kinds = {
    "mujoco": (SECTIONS, ("model",)),
    "worldbody": (("body", "frame", "include", *PARTS), ()),
    "body": (
        ("body", "frame", "joint", "freejoint", "include", *PARTS),
        ("name", "childclass", "mocap", "gravcomp", "sleep", "user", *PLACED),
    ),
    "frame": (("body", "frame", "joint", "freejoint", "include", *PARTS), ("name", "childclass", *PLACED)),
    "joint": ((), ("name", "class", *READ["joint"], *LIMITED)),
    "freejoint": ((), ("name", "group", "align")),
    "equality": (("joint", "connect", "weld", "tendon", "flex", "flexvert", "flexstrain", "include"), ()),
    "connect": ((), ENDS),
    "weld": ((), ENDS),
    "keyframe": (("key", "include"), ()),
    "key": ((), ("name", "time", "qpos", "qvel", "act", "mpos", "mquat", "ctrl")),
    "default": (DEFAULTS, ("class",)),
    "coupling": ((), ("joint1", "joint2", "tendon1", "tendon2", "polycoef", *HELD)),
    "compiler": ((), ("angle", "autolimits", "eulerseq", "coordinate")),
}
