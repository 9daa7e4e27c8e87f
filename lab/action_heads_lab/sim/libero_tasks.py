"""LIBERO tasks that have an expert, in the order of their suites: `libero_object/3`, `libero_goal/9`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from action_heads_lab.sim import libero_experts as experts
from action_heads_lab.sim import libero_goal as goal
from action_heads_lab.sim import libero_long as long
from action_heads_lab.sim.task import Task

STEPS, GOAL_STEPS, LONG_STEPS = 280, 300, 520  # ticks; the limits of the suites, which hold for experts too
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

# Four bodies per task, for the same reason: those that the task moves, their goals, and then others of the scene.
LONG = (
    (
        "LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket",
        ("alphabet_soup_1_main", "tomato_sauce_1_main", "basket_1_main", "cream_cheese_1_main"),
        partial(long.both_into_basket, items=("alphabet_soup_1", "tomato_sauce_1")),
    ),
    (
        "LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket",
        ("cream_cheese_1_main", "butter_1_main", "basket_1_main", "alphabet_soup_1_main"),
        partial(long.both_into_basket, items=("cream_cheese_1", "butter_1")),
    ),
    (
        "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
        ("flat_stove_1_button", "moka_pot_1_main", "flat_stove_1_burner", "chefmate_8_frypan_1_main"),
        long.stove_and_pot,
    ),
    (
        "KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
        (BOWL, "white_cabinet_1_cabinet_bottom", "white_cabinet_1_main", BOTTLE),
        long.bowl_into_drawer,
    ),
    (
        "LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate",
        ("porcelain_mug_1_main", "white_yellow_mug_1_main", "plate_1_main", "plate_2_main"),
        long.mugs_onto_plates,
    ),
    (
        "STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
        ("black_book_1_main", "desk_caddy_1_main", "white_yellow_mug_1_main", "study_table"),
        long.book_into_caddy,
    ),
    (
        "LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate",
        ("porcelain_mug_1_main", "chocolate_pudding_1_main", "plate_1_main", "red_coffee_mug_1_main"),
        long.mug_and_pudding,
    ),
    (
        "LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket",
        ("alphabet_soup_1_main", "cream_cheese_1_main", "basket_1_main", "tomato_sauce_1_main"),
        partial(long.both_into_basket, items=("alphabet_soup_1", "cream_cheese_1")),
    ),
    (
        "KITCHEN_SCENE8_put_both_moka_pots_on_the_stove",
        ("moka_pot_1_main", "moka_pot_2_main", "flat_stove_1_burner", "flat_stove_1_button"),
        long.both_pots,
    ),
    (
        "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
        ("white_yellow_mug_1_main", "microwave_1_main", "microwave_1_microdoorroot", "porcelain_mug_1_main"),
        long.mug_into_microwave,
    ),
)


def _task(name: str, objects: tuple[str, ...], expert: Callable, steps: int) -> Task:
    return Task(name, objects, expert, expert_steps=steps, rollout_steps=steps, noise=0.2, suite="libero")


def _object(item: str) -> Task:
    name, objects = f"pick_up_the_{item}_and_place_it_in_the_basket", (f"{item}_1_main", "basket_1_main")
    return _task(name, objects, partial(experts.into_basket, item=f"{item}_1"), STEPS)


def _spatial(place: str) -> Task:
    name, objects = f"pick_up_the_black_bowl_{place}_and_place_it_on_the_plate", (BOWL, "plate_1_main")
    return _task(name, objects, partial(experts.onto_plate, bowl="akita_black_bowl_1"), STEPS)


TASKS = {f"libero_object/{i}": _object(item) for i, item in enumerate(GROCERIES)}
TASKS |= {f"libero_spatial/{i}": _spatial(place) for i, place in enumerate(PLACES)}
TASKS |= {f"libero_goal/{i}": _task(*row, GOAL_STEPS) for i, row in enumerate(GOALS)}
TASKS |= {f"libero_10/{i}": _task(*row, LONG_STEPS) for i, row in enumerate(LONG)}


def of_suite(suite: str) -> list[str]:
    """Return the tasks of a suite in its order, none if there is no such suite."""
    return [task for task in TASKS if task.startswith(f"{suite}/")]
