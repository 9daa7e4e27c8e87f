"""Every conversion equals scipy's and round-trips, also for zero, tiny and near-pi rotations and in gimbal lock.

Axes: `n` rotations, 3 x 3 matrices.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from action_heads.actions.rotations import SHAPES, convert, from_matrix, to_matrix

FORMS = tuple(SHAPES)
PAIRS = list(itertools.product(FORMS, FORMS))


def random_rotations(n: int, seed: int) -> Rotation:
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=(n, 4)))


def cases() -> dict[str, Rotation]:
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(64, 3))
    axes = np.concatenate((axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3), -np.eye(3)))
    lock = rng.uniform(-3, 3, (64, 3))
    lock[:, 1] = np.pi / 2 * np.sign(lock[:, 1]) + np.repeat([0.0, 1e-9, 1e-5, 1e-3], 16)
    return {
        "random": random_rotations(512, seed=1),
        "identity": Rotation.identity(3),
        "tiny": Rotation.from_rotvec(np.concatenate([axes * size for size in (1e-30, 1e-12, 1e-7, 1e-4)])),
        "near pi": Rotation.from_rotvec(np.concatenate([axes * (np.pi - gap) for gap in (1e-3, 1e-6, 1e-9, 0.0)])),
        "gimbal lock": Rotation.from_euler("xyz", lock),
    }


def by_scipy(rotation: Rotation, form: str) -> np.ndarray:
    if form == "6d":
        return rotation.as_matrix()[:, :2].reshape(-1, 6)
    if form == "quaternion_wxyz":
        return rotation.as_quat()[:, [3, 0, 1, 2]]
    if form == "euler_xyz":
        return rotation.as_euler("xyz")
    return {"matrix": rotation.as_matrix, "quaternion": rotation.as_quat, "axis_angle": rotation.as_rotvec}[form]()


def angle(a: Tensor, b: np.ndarray) -> float:
    """Return the largest angle between matrices (n 3 3), exact for small angles: |A - B| = 2 sqrt(2) sin(angle / 2)."""
    gap = np.linalg.norm(a.double().numpy() - b, axis=(-2, -1))
    return float((2 * np.arcsin(np.clip(gap / np.sqrt(8), 0, 1))).max())


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 5e-8), (torch.float32, 3e-6)])
@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_agrees_with_scipy_as_a_rotation(
    source: str, target: str, case: str, dtype: torch.dtype, tolerance: float
) -> None:
    truth = cases()[case]
    given = torch.tensor(by_scipy(truth, source), dtype=dtype)
    found = to_matrix(convert(given, source, target), target)
    assert found.dtype == dtype
    # The angles of scipy in gimbal lock are accurate to about 1e-8.
    assert angle(found, truth.as_matrix()) < tolerance


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_agrees_with_scipy_number_by_number(source: str, target: str) -> None:
    truth = random_rotations(512, seed=2)
    found = convert(torch.tensor(by_scipy(truth, source)), source, target).numpy()
    expected = by_scipy(truth, target)
    if target.startswith("quaternion") and source != target:  # A rotation has two quaternions; ours has w >= 0.
        w = 3 if target == "quaternion" else 0
        assert (found[:, w] >= 0).all()
        expected = np.where(expected[:, [w]] < 0, -expected, expected)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("case", ["tiny", "near pi"])
def test_rotation_vector_keeps_its_length(case: str) -> None:
    truth = cases()[case]
    found = from_matrix(torch.tensor(truth.as_matrix()), "axis_angle").norm(dim=-1)
    np.testing.assert_allclose(found, truth.magnitude(), atol=1e-8)
    assert (found <= torch.pi + 1e-12).all()


def test_gimbal_lock_leaves_the_third_angle_at_zero() -> None:
    angles = torch.rand(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6 - 3
    angles[:, 1] = torch.pi / 2
    found = from_matrix(to_matrix(angles, "euler_xyz"), "euler_xyz")
    assert (found[:, 2] == 0).all()
    torch.testing.assert_close(found[:, 0].sin(), (angles[:, 0] - angles[:, 2]).sin(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found[:, 0].cos(), (angles[:, 0] - angles[:, 2]).cos(), atol=1e-9, rtol=0)


def test_6d_is_rows_and_is_orthonormalised() -> None:
    matrix = torch.tensor(Rotation.from_euler("z", 0.3).as_matrix())
    six = from_matrix(matrix, "6d")
    torch.testing.assert_close(six, torch.cat((matrix[0], matrix[1])))
    assert not torch.allclose(six, torch.cat((matrix[:, 0], matrix[:, 1])))
    torch.testing.assert_close(to_matrix(torch.cat((3 * matrix[0], 5 * matrix[1] + 2 * matrix[0])), "6d"), matrix)
    noisy = to_matrix(torch.randn(100, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), "6d")
    torch.testing.assert_close(noisy @ noisy.mT, torch.eye(3, dtype=torch.float64).expand(100, 3, 3))
    torch.testing.assert_close(torch.linalg.det(noisy), torch.ones(100, dtype=torch.float64))


def test_quaternions_are_normalised_and_impossible_rotations_are_nan() -> None:
    quaternion = torch.tensor([0.1, -0.4, 0.2, 0.7])
    torch.testing.assert_close(to_matrix(5 * quaternion, "quaternion"), to_matrix(quaternion, "quaternion"))
    torch.testing.assert_close(to_matrix(-quaternion, "quaternion"), to_matrix(quaternion, "quaternion"))
    assert to_matrix(torch.zeros(4), "quaternion").isnan().all()
    assert to_matrix(torch.tensor([1.0, 0, 0, 2, 0, 0]), "6d").isnan().any()


@pytest.mark.filterwarnings("ignore:Gimbal lock")
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_gradients_are_finite_and_right(source: str, target: str) -> None:
    generic = torch.tensor(by_scipy(Rotation.from_rotvec([[0.3, -0.8, 0.5], [2.0, 1.0, -1.5]]), source))
    assert torch.autograd.gradcheck(lambda r: convert(r, source, target), generic.requires_grad_())
    for rotation in (Rotation.identity(1), Rotation.from_euler("xyz", [[0.1, np.pi / 2, 0.2]])):
        edge = torch.tensor(by_scipy(rotation, source)).requires_grad_()
        convert(edge, source, target).sum().backward()
        assert edge.grad is not None
        assert edge.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_exact_quarter_turns(form: str) -> None:
    """The 24 rotations of a cube have exact zeros and ones, half turns and gimbal lock at once."""
    truth = torch.tensor(Rotation.create_group("O").as_matrix().round())
    matrix = truth.clone().requires_grad_()
    found = from_matrix(matrix, form)
    torch.testing.assert_close(to_matrix(found, form).detach(), truth)
    found.sum().backward()
    assert matrix.grad is not None
    assert matrix.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_any_leading_axes(form: str) -> None:
    matrix = torch.tensor(random_rotations(24, seed=3).as_matrix())
    flat = from_matrix(matrix, form)
    torch.testing.assert_close(from_matrix(matrix.unflatten(0, (2, 3, 4)), form), flat.unflatten(0, (2, 3, 4)))
    torch.testing.assert_close(from_matrix(matrix[0], form), flat[0])
    assert convert(flat[:0], form, "matrix").shape == (0, 3, 3)


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match=r"'rpy'.*'matrix', '6d', 'quaternion'"):
        to_matrix(torch.zeros(3), "rpy")
    with pytest.raises(ValueError, match=r"'rpy'.*'euler_xyz'"):
        convert(torch.zeros(3), "axis_angle", "rpy")
    with pytest.raises(ValueError, match=r"shape \(2, 3\), but form 'quaternion' needs \(4,\)"):
        convert(torch.zeros(2, 3), "quaternion", "matrix")
    with pytest.raises(ValueError, match=r"\(9,\).*\(3, 3\)"):
        from_matrix(torch.zeros(9), "6d")
