"""The contract over the registries: registering a class tests it."""

import functools

import pytest

import genflow
from genflow.process.affine import AffineProcess
from genflow.registry import registries
from genflow.testing import check_backbone, check_process, check_solver


def names(plural):
    return list(registries()[plural].entries())


def heads():
    for name in names("processes"):
        process = genflow.get_process(name)
        for head in process.heads() if isinstance(process, AffineProcess) else (None,):
            if not (process.mode == "sde" and head == "velocity" and type(process)(head=head).why_not("sde")):
                yield name, head


@pytest.mark.quick_one_in(43)
@pytest.mark.parametrize(("name", "head"), list(heads()))
def test_process(name, head):
    check_process(genflow.get_process(name, **({"head": head} if head else {})))


@pytest.mark.quick_one_in(11)
@pytest.mark.parametrize("name", names("solvers"))
def test_solver(name):
    check_solver(genflow.get_solver(name), registries()["solvers"].entry(name).tags["order"])


@pytest.mark.quick_one_in(19)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("name", names("backbones"))
def test_backbone(name, shape):
    backbones = registries()["backbones"]
    check_backbone(functools.partial(backbones.load(name), **backbones.entry(name).preset), shape)


@pytest.mark.parametrize("name", names("processes"))
def test_static_facts_agree_with_the_class(name):
    """What `genflow list` says without torch is what the process itself says."""
    entry, process = registries()["processes"].entry(name), genflow.get_process(name)
    assert process.mode == entry.tags["mode"]
    missing = entry.tags.get("missing", {})
    for capability in ("score", "sde", "data", "oracle", "norm", "affine", "likelihood", "ode"):
        reason = process.why_not(capability)
        listed = missing.get(capability) or (capability == "sde" and missing.get("score"))
        assert bool(reason) == bool(listed), (capability, reason)


def test_a_wrong_process_fails_the_contract():
    """The contract can fail: a wrong derivative, and a head that does not invert."""
    from genflow.process.score_sde import VP

    class WrongRate(VP):
        def coefficients(self, t):
            a, b, da, db = super().coefficients(t)[:4]
            return a, b, da, 1.1 * db

    with pytest.raises(AssertionError, match="db"):
        check_process(WrongRate())
