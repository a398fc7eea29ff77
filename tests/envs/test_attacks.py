"""Attacks as functions of observations: they stay in their box, never raise the attacked value, and repeat."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offdyn_envs.attacks import MinQAttack, RandomAttack
from offdyn_envs.attacks.descent import PROBE, difference_gradient
from offdyn_envs.errors import OffDynError

ANY = st.floats(allow_nan=True, allow_infinity=True)
ORDINARY = st.floats(-1e6, 1e6)
OBSERVATIONS = arrays(np.float64, (3, 4), elements=st.one_of(ORDINARY, ANY, st.just(1e16)))
SPREAD = arrays(np.float64, (4,), elements=st.one_of(st.floats(0, 1e3), st.floats(0, 1e300)))
SCALE = st.one_of(st.floats(0, 1), st.floats(0, 1e8))
FORMS = {
    "zeroth": {"samples": 8},
    "mixed": {"order": "mixed", "starts": 3, "steps": 4},
}


def generators(count, seed=0):
    return [np.random.default_rng([seed, row]) for row in range(count)]


def quiet(function):
    """A network may overflow in silence; ours to prove is that the attack copes."""

    def silent(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return silent


def nan_where(condition, values):
    return np.where(condition, np.nan, values)


POLICIES = {
    "smooth": quiet(lambda s: np.tanh(s[:, :2])),
    "jagged": quiet(lambda s: np.sin(1e4 * s[:, 1:3])),
    "unbounded": quiet(lambda s: s[:, :2]),
    "often nan": quiet(lambda s: nan_where(np.sin(50 * s[:, :1]) > 0, np.tanh(s[:, :2]))),
    "always nan": quiet(lambda s: np.full((len(s), 2), np.nan)),
    "infinite": quiet(lambda s: s[:, :2] / 0.0),
}
CRITICS = {
    "smooth": quiet(lambda s, a: np.sin(3 * np.tanh(s[:, 0])) * a[:, 0] - a[:, 1] ** 2),
    "column": quiet(lambda s, a: a[:, :1] - a[:, 1:]),
    "huge": quiet(lambda s, a: 1.7e308 * a[:, 0] + 1e308 * a[:, 1]),
    "tiny": quiet(lambda s, a: 1e-310 * a[:, 0]),
    "often nan": quiet(lambda s, a: nan_where(np.sin(20 * a[:, 0]) > 0, a[:, 1])),
    "infinite": quiet(lambda s, a: np.log(np.maximum(a[:, 0], 0.0))),
    "flat": quiet(lambda s, a: np.zeros(len(a))),
}


def gradient(points, clean):
    """No true gradient of anything: the guarantees hold whatever a user's function says."""
    with np.errstate(all="ignore"):
        return nan_where(points > 1e5, 1e200 * np.sin(points) + clean)


@settings(max_examples=300)
@given(
    OBSERVATIONS,
    SPREAD,
    SCALE,
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(sorted(CRITICS)),
    st.sampled_from((*FORMS, "gradient", "random")),
    st.integers(0, 2**32),
)
def test_guarantees_for_any_input_and_any_network(observations, sigma, scale, policy, critic, form, seed):
    act, value = POLICIES[policy], CRITICS[critic]
    if form == "random":
        attack = RandomAttack(scale, sigma)
    elif form == "gradient":
        attack = MinQAttack(scale, sigma, act, value, **FORMS["mixed"], gradient=gradient)
    else:
        attack = MinQAttack(scale, sigma, act, value, **FORMS[form])
    before, box = observations.copy(), scale * sigma
    seen = attack.perturb(observations, generators(3, seed))

    np.testing.assert_array_equal(observations, before)
    finite = np.isfinite(observations)
    np.testing.assert_array_equal(seen[~finite], observations[~finite])
    assert np.isfinite(seen[finite]).all()
    with np.errstate(over="ignore", invalid="ignore"):
        assert (np.abs(seen - observations) <= box)[finite].all()
        assert ((seen >= observations - box) & (seen <= observations + box))[finite].all()

    np.testing.assert_array_equal(seen, attack.perturb(observations, generators(3, seed)))
    for row, rng in enumerate(generators(3, seed)):
        np.testing.assert_array_equal(attack.perturb(observations[row : row + 1], [rng])[0], seen[row])

    if form != "random":
        clean, attacked = (value(observations, np.clip(act(shown), -1, 1)).ravel() for shown in (observations, seen))
        known = np.isfinite(clean)
        assert (attacked[known] <= clean[known]).all()
        np.testing.assert_array_equal(seen[~known], observations[~known])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_rows_do_not_depend_on_their_neighbours_through_matrix_products(form):
    """Networks of a real width, whose products may round differently in batches of other sizes."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal(shape).astype(np.float32) for shape in ((17, 256), (256, 6)))
    judge = rng.standard_normal((23, 256)).astype(np.float32)
    attack = MinQAttack(
        0.2,
        np.full(17, 0.5),
        lambda s: np.tanh(np.maximum(s.astype(np.float32) @ first, 0) @ second),
        lambda s, a: np.maximum(np.concatenate((s, a), axis=1, dtype=np.float32) @ judge, 0).sum(axis=1),
        **FORMS[form],
    )
    observations = rng.standard_normal((33, 17))
    together = attack.perturb(observations, generators(33))
    alone = [attack.perturb(observations[[row]], [generator])[0] for row, generator in enumerate(generators(33))]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_other_seed_other_attack(form):
    attack = MinQAttack(0.2, np.ones(4), POLICIES["smooth"], CRITICS["smooth"], **FORMS[form])
    first, second = (attack.perturb(np.ones((3, 4)), generators(3, seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_min_q_finds_the_worst_corner():
    """With Q = -a and pi = s the worst observation is the largest: the samples must come close to it."""
    attack = MinQAttack(1.0, [0.5], lambda s: s, lambda s, a: -a[:, 0], samples=50)
    seen = attack.perturb(np.zeros((20, 1)), generators(20))
    assert (seen > 0.4).all()


BOTTOM = 0.5 * np.linspace(-0.8, 0.8, 9)


def bowl(observations, actions):
    return ((actions - BOTTOM) ** 2).sum(axis=1)


@pytest.mark.parametrize("slope", (None, lambda points, clean: 2 * (points - BOTTOM)))
def test_mixed_order_finds_what_samples_miss(slope):
    """A bowl in nine dimensions, its bottom inside the box of half-width .5."""
    make = partial(MinQAttack, 0.5, np.ones(9), lambda s: s, bowl)
    observations = np.zeros((5, 9))
    zeroth = make().perturb(observations, generators(5))
    mixed = make(order="mixed", gradient=slope).perturb(observations, generators(5))
    assert (bowl(None, mixed) < 0.5 * bowl(None, zeroth)).all()
    # All points on the way count, so more steps from the same starts can only do better.
    longer = make(order="mixed", gradient=slope, steps=100).perturb(observations, generators(5))
    assert (bowl(None, longer) <= bowl(None, mixed)).all() and (bowl(None, longer) < 1e-3).all()


@given(arrays(np.float64, (3, 4), elements=st.floats(-1, 1)))
def test_numerical_gradient_of_a_parabola(positions):
    """Central differences are exact on a parabola; at the edge of the box they give the slope half a probe inside."""
    chosen = np.array([0, 2, 3])
    found = difference_gradient(positions, chosen, lambda points: (points**2).sum(axis=1))
    np.testing.assert_array_equal(found[:, 1], 0)
    inner = np.clip(positions, -1 + PROBE, 1 - PROBE)
    np.testing.assert_allclose(found[:, chosen], (2 * positions)[:, chosen], atol=PROBE + 1e-9)
    free = (inner == positions)[:, chosen]
    np.testing.assert_allclose(found[:, chosen][free], (2 * positions)[:, chosen][free], atol=1e-9)


def test_numerical_and_given_gradient_find_alike():
    make = partial(MinQAttack, 0.5, np.linspace(0.5, 2.0, 9), lambda s: 0.2 * s, bowl, order="mixed")
    exact = make(gradient=lambda points, clean: 0.4 * (0.2 * points - BOTTOM))
    observations = np.random.default_rng(3).normal(0, 0.3, (4, 9))
    values = [bowl(None, 0.2 * attack.perturb(observations, generators(4))) for attack in (make(), exact)]
    np.testing.assert_allclose(*values, rtol=1e-3)
    assert (values[0] < bowl(None, 0.2 * observations)).all()


def test_torch_can_give_the_gradient():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    shapes = ((5, 2), (7, 1))
    actor, judge = (
        torch.nn.Sequential(torch.nn.Linear(i, 16), torch.nn.Tanh(), torch.nn.Linear(16, o)) for i, o in shapes
    )
    actor, judge = actor.double(), judge.double()

    def value(clean, actions):
        return judge(torch.cat((clean, actions), dim=1))[:, 0]

    def slope(observations, clean):
        points = torch.tensor(observations, requires_grad=True)
        values = value(torch.tensor(clean), torch.tanh(actor(points)).clamp(-1, 1))
        return torch.autograd.grad(values.sum(), points)[0].numpy()

    def act(observations):
        return torch.tanh(actor(torch.tensor(observations))).detach().numpy()

    def critic(observations, actions):
        return value(torch.tensor(observations), torch.tensor(actions)).detach().numpy()

    make = partial(MinQAttack, 0.3, np.ones(5), act, critic, order="mixed")
    observations = np.random.default_rng(1).standard_normal((4, 5))
    exact, numerical = (
        critic(observations, act(attack.perturb(observations, generators(4))))
        for attack in (make(gradient=slope), make())
    )
    assert (exact < critic(observations, act(observations))).all()
    np.testing.assert_allclose(exact, numerical, atol=1e-3)


def test_adam_steps_a_tenth_of_the_box_in_units_of_sigma():
    sigma, looked_at = np.array([1.0, 100.0]), []

    def slope(points, clean):
        looked_at.append(points)
        return np.array([[1.0, -1e-3]]) * np.ones_like(points)

    attack = MinQAttack(0.2, sigma, lambda s: s, bowl_of_two, order="mixed", gradient=slope)
    attack.perturb(np.zeros((1, 2)), generators(1))
    assert len(looked_at) == 10 and looked_at[0].shape == (20, 2)
    moved = (looked_at[1] - looked_at[0]) / sigma
    free = np.abs(looked_at[1]) < 0.2 * sigma
    np.testing.assert_allclose(moved[free[:, 0], 0], -0.02, rtol=1e-6)
    np.testing.assert_allclose(moved[free[:, 1], 1], 0.02, rtol=1e-6)
    assert all((np.abs(points) <= 0.2 * sigma).all() for points in looked_at)


def bowl_of_two(observations, actions):
    return (actions**2).sum(axis=1)


def test_numerical_probes_stay_in_the_box_and_skip_dimensions_without_width():
    looked_at = []

    def act(observations):
        looked_at.append(observations)
        return observations

    sigma = np.array([0.0, 1.0, 3.0])
    MinQAttack(0.1, sigma, act, bowl_of_two, order="mixed", starts=4, steps=3).perturb(np.ones((1, 3)), generators(1))
    assert [len(points) for points in looked_at] == [4 * 2 * 2] * 3 + [1 + 4 * 4]
    assert all((np.abs(points - 1) <= 0.1 * sigma).all() for points in looked_at)


def test_no_box_no_change():
    for form in FORMS.values():
        attack = MinQAttack(0.3, np.zeros(4), POLICIES["smooth"], CRITICS["smooth"], **form)
        np.testing.assert_array_equal(attack.perturb(np.ones((2, 4)), generators(2)), np.ones((2, 4)))


def test_min_q_judges_at_the_clean_observation():
    calls = []

    def recording(observations, actions):
        calls.append(observations)
        return actions[:, 0]

    clean = np.array([[1.0, 1.0], [2.0, 2.0]])
    MinQAttack(0.2, [1.0, 1.0], lambda s: s, recording, samples=5).perturb(clean, generators(2))
    np.testing.assert_array_equal(calls, [np.ones((6, 2)), np.full((6, 2), 2.0)])


def test_min_q_judges_executed_actions():
    """Beyond 1 an action is clipped: a critic must not be shown what no actuator does."""
    shown = []

    def recording(observations, actions):
        shown.append(actions)
        return actions[:, 0]

    MinQAttack(0.2, [1.0], lambda s: 5.0 * s, recording, samples=5).perturb(np.ones((1, 1)), generators(1))
    np.testing.assert_array_equal(shown, [np.ones((6, 1))])


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_policy_that_works_in_place_does_not_move_the_candidates(form):
    def normalising(observations):
        observations -= 5.0
        return observations

    make = partial(MinQAttack, 0.2, [1.0, 1.0], critic=bowl_of_two, **FORMS[form])
    careful, careless = make(policy=lambda s: s - 5.0), make(policy=normalising)
    expected = careful.perturb(np.ones((2, 2)), generators(2))
    np.testing.assert_array_equal(careless.perturb(np.ones((2, 2)), generators(2)), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        ({"policy": lambda s: s[:, 0]}, "policy gave shape (9,); (9, |A|) is needed"),
        ({"policy": lambda s: s[:2]}, "policy gave shape (2, 4)"),
        ({"critic": lambda s, a: a}, "critic gave shape (9, 4); (9,) is needed"),
        ({"order": "mixed", "gradient": lambda s, c: s[:1]}, "gradient gave shape (1, 4); (20, 4) is needed"),
        ({"order": "first"}, "unknown order of the min-q attack 'first'; allowed: zeroth, mixed"),
        ({"order": ["mixed"]}, "unknown order"),
        ({"gradient": gradient}, "gradient must be left out: only order 'mixed' takes one"),
        ({"order": "mixed", "gradient": 3}, "gradient must be a function, got 3"),
        ({"order": "mixed", "starts": 0}, "starts must be a whole number above 0, at most 100000, got 0"),
        ({"order": "mixed", "steps": True}, "steps must be a whole number above 0"),
        ({"samples": 10**9}, "samples must be a whole number above 0, at most 100000"),
        ({"critic": None}, "critic must be a function, got None"),
        ({"scale": 1e200, "sigma": [1e200] * 4}, "times sigma must be finite"),
    ),
)
def test_values_refused(arguments, words):
    usual = {"scale": 0.1, "sigma": np.ones(4), "policy": lambda s: s, "critic": bowl_of_two, "samples": 8}
    with pytest.raises(OffDynError) as refused:
        MinQAttack(**usual | arguments).perturb(np.ones((2, 4)), generators(2))
    assert words in str(refused.value) and "\n" not in str(refused.value)
