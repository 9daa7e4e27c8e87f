"""LIBERO tasks that have an expert, in the order of their suites: `libero_object/3`, `libero_goal/9`."""

from __future__ import annotations

from functools import partial

from action_heads_lab.sim import libero_experts as experts
from action_heads_lab.sim import libero_goal as goal
from action_heads_lab.sim.tasks import Task

STEPS, GOAL_STEPS = 280, 300  # ticks; the limits of the suites, which hold for experts too
GROCERIES = (
    "alphabet_soup",
    "cream_cheese",
    "salad_dressing",
    "bbq_sauce",
    "ketchup",
    "tomato_sauce",
    "butter",
    "milk",
    "chocolate_pudding",
    "orange_juice",
)
# Places of the bowl of the task. There is another bowl elsewhere, `akita_black_bowl_2`.
PLACES = (
    "between_the_plate_and_the_ramekin",
    "next_to_the_ramekin",
    "from_table_center",
    "on_the_cookie_box",
    "in_the_top_drawer_of_the_wooden_cabinet",
    "on_the_ramekin",
    "next_to_the_cookie_box",
    "on_the_stove",
    "next_to_the_plate",
    "on_the_wooden_cabinet",
)

CABINET, BOWL, BOTTLE = "wooden_cabinet_1_main", "akita_black_bowl_1_main", "wine_bottle_1_main"
# Two bodies per task, since one policy observes them in all ten: the moving one, and its goal or what it is part of.
GOALS = (
    ("open_the_middle_drawer_of_the_cabinet", ("wooden_cabinet_1_cabinet_middle", CABINET), goal.open_middle_drawer),
    ("put_the_bowl_on_the_stove", (BOWL, "flat_stove_1_burner"), partial(goal.bowl_to, where="stove")),
    ("put_the_wine_bottle_on_top_of_the_cabinet", (BOTTLE, CABINET), goal.bottle_onto_cabinet),
    ("open_the_top_drawer_and_put_the_bowl_inside", (BOWL, "wooden_cabinet_1_cabinet_top"), goal.bowl_into_drawer),
    ("put_the_bowl_on_top_of_the_cabinet", (BOWL, CABINET), partial(goal.bowl_to, where="cabinet")),
    ("push_the_plate_to_the_front_of_the_stove", ("plate_1_main", "flat_stove_1_main"), goal.plate_to_stove),
    ("put_the_cream_cheese_in_the_bowl", ("cream_cheese_1_main", BOWL), goal.cheese_into_bowl),
    ("turn_on_the_stove", ("flat_stove_1_button", "flat_stove_1_main"), goal.turn_on_stove),
    ("put_the_bowl_on_the_plate", (BOWL, "plate_1_main"), partial(experts.onto_plate, bowl="akita_black_bowl_1")),
    ("put_the_wine_bottle_on_the_rack", (BOTTLE, "wine_rack_1_main"), goal.bottle_onto_rack),
)


def _object(item: str) -> Task:
    return Task(
        *(f"pick_up_the_{item}_and_place_it_in_the_basket", (f"{item}_1_main", "basket_1_main")),
        *(partial(experts.into_basket, item=f"{item}_1"), STEPS, STEPS),
        noise=0.2,
        suite="libero",
    )


def _spatial(place: str) -> Task:
    return Task(
        f"pick_up_the_black_bowl_{place}_and_place_it_on_the_plate",
        ("akita_black_bowl_1_main", "plate_1_main"),
        *(partial(experts.onto_plate, bowl="akita_black_bowl_1"), STEPS, STEPS),
        noise=0.2,
        suite="libero",
    )


TASKS = {f"libero_object/{i}": _object(item) for i, item in enumerate(GROCERIES)}
TASKS |= {f"libero_spatial/{i}": _spatial(place) for i, place in enumerate(PLACES)}
TASKS |= {
    f"libero_goal/{i}": Task(*row, GOAL_STEPS, GOAL_STEPS, noise=0.2, suite="libero") for i, row in enumerate(GOALS)
}
