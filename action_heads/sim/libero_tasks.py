"""LIBERO's tasks for which an expert is here, in the order of their suites: `libero_object/3`, `libero_spatial/9`."""

from __future__ import annotations

from functools import partial

from action_heads.sim import libero_experts as experts
from action_heads.sim.tasks import Task

STEPS = 280  # the suites' own limit, of experts too
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
# Where the bowl is that is meant. There is another one, elsewhere: `akita_black_bowl_2`.
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
