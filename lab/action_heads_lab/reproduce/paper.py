"""Results of the paper: success in %, mean and standard deviation over seeds 0, 42 and 420 (arXiv 2511.12101)."""

from __future__ import annotations

Value = tuple[float, float]  # mean, standard deviation

NAMES = {"unet": "DP-C", "transformer": "DP-T", "mlp": "DP-MLP"}  # backbone here -> the paper's name
# MimicGen tasks by their official names, with the largest reset distribution used -> ticks until a rollout fails
MIMICGEN = {
    "stack_d1": 270,
    "square_d2": 383,
    "coffee_d2": 560,
    "threading_d2": 568,
    "stack_three_d1": 638,
    "hammer_cleanup_d1": 715,
    "three_piece_assembly_d2": 838,
    "mug_cleanup_d1": 845,
}
LIBERO = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520}

# Table II, by family: (backbone, mode) -> one value per task in the order above, then the average.
PRINTED: dict[str, dict[tuple[str, str], str]] = {
    "mimicgen": {
        ("unet", "normal"): "100±0 55±5 73±2 47±7 95±2 54±5 17±2 67±1 63.6±1.8",
        ("unet", "decoupled"): "100±0 50±2 71±4 39±2 86±6 58±5 25±3 69±1 62.2±2.3",
        ("transformer", "normal"): "97±1 41±2 74±6 29±2 83±7 65±2 29±3 66±2 60.4±0.8",
        ("transformer", "decoupled"): "62±2 5±1 2±0 5±2 25±3 28±7 3±1 25±4 19.4±0.4",
        ("mlp", "normal"): "100±0 51±1 76±4 47±2 89±1 61±3 36±3 69±1 65.9±0.7",
        ("mlp", "decoupled"): "100±0 41±3 63±1 41±6 77±2 63±3 33±3 73±5 61.2±0.5",
    },
    "libero": {
        ("unet", "normal"): "89.5±1.2 93.1±2.8 78.3±0.6 56.2±1.8 79.3±0.6",
        ("unet", "decoupled"): "87.7±1.1 92.8±1.2 74.5±1.2 52.3±2.0 76.8±0.9",
        ("transformer", "normal"): "75.5±0.3 96.6±0.4 77.9±1.0 55.5±0.4 76.4±0.4",
        ("transformer", "decoupled"): "4.2±1.2 8.6±1.1 8.0±0.9 2.8±0.4 5.9±0.2",
        ("mlp", "normal"): "92.0±1.6 97.7±0.1 82.1±0.6 67.1±0.8 84.7±0.5",
        ("mlp", "decoupled"): "87.1±1.2 98.6±0.3 82.0±1.2 68.9±1.6 84.2±0.9",
    },
}


def _values(text: str) -> list[Value]:
    return [(float(mean), float(std)) for mean, std in (part.split("±") for part in text.split())]


TABLE_2 = {family: {key: _values(text) for key, text in rows.items()} for family, rows in PRINTED.items()}
TASKS = {"mimicgen": MIMICGEN, "libero": LIBERO}

# Figure 3, a transformer of 8 layers on MimicGen, seed 42: mechanism -> normal, decoupled.
FIGURE_3 = {
    "adaln_zero": (64.0, 64.5),
    "adaln": (62.0, 62.3),
    "adarmsnorm": (63.8, 60.0),
    "film": (59.5, 51.8),
    "additive": (57.0, 45.3),
    "cross_attention": (61.3, 19.8),
    "prefix": (56.3, 19.5),
}
