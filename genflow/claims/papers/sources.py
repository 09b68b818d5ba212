"""The authors' files that the full scale measures, and what they print of them: shared by the recipes."""

from __future__ import annotations

from genflow.claims.recipe import Weights

XU_README = "README of the authors' repository Poisson_flow, table of checkpoints"
SONG_README = "README of the authors' repository score_sde_pytorch"
INCEPTION = "Inception of TF-GAN, statistics of the training split, samples cut to whole grey levels"
"""Where numbers were read, and how both repositories measure."""


def _poisson(preset: str, what: str) -> Weights:
    origin = f"checkpoint of {what}, linked from the README of the authors' repository Poisson_flow"
    return Weights(f"{preset.replace('/', '_')}.pth", preset, ("pfgm",), origin, as_published=True)


def score_sde(preset: str, *modes: str) -> Weights:
    """A file of score_sde_pytorch by the path of its configuration, measured as some processes of its family."""
    origin = f"checkpoint of {preset}, linked from the README of the authors' repository score_sde_pytorch"
    return Weights(f"{preset.replace('/', '_')}.pth", preset, modes, origin)


POISSON = _poisson("poisson/cifar10_ddpmpp", "CIFAR-10 with DDPM++")
POISSON_DEEP = _poisson("poisson/cifar10_ddpmpp_deep", "CIFAR-10 with DDPM++ deep")
POISSON_CELEBA = _poisson("poisson/celeba64_ddpmpp", "CelebA 64")
POISSON_BEDROOM = _poisson("poisson/bedroom_ddpmpp", "LSUN bedroom 256")
VP, VP_ODE = (score_sde("vp/cifar10_ddpmpp_continuous", *modes) for modes in (("vp_ode", "vp_sde"), ("vp_ode",)))
SUBVP, SUBVP_ODE = (
    score_sde("subvp/cifar10_ddpmpp_continuous", *modes) for modes in (("subvp_ode", "subvp_sde"), ("subvp_ode",))
)
VE_ODE = score_sde("ve/cifar10_ncsnpp_continuous", "ve_ode")
