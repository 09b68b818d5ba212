"""What the authors published, shared by the recipes: files that the full scale measures, and how they measured."""

from __future__ import annotations

from genflow.claims.recipe import Comparison, Published, Weights, at_scales

XU = "Xu, Liu, Tegmark & Jaakkola 2022, arXiv:2209.11178"
SONG = "Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021, arXiv:2011.13456"
"""The papers that have recipes in several modules."""
XU_README = "README of the authors' repository Poisson_flow, table of checkpoints"
SONG_README = "README of the authors' repository score_sde_pytorch"
INCEPTION = "Inception of TF-GAN, statistics of the training split, samples cut to whole grey levels"
"""Where numbers were read, and how both repositories measure."""

BEST = f"CIFAR-10, 50,000 samples of the checkpoint of best FID; {INCEPTION}"
EULER = f"{BEST}; Euler–Maruyama, 1,000 steps"
CORRECTED = f"{BEST}; 1,000 steps of reverse diffusion and of Langevin dynamics, snr 0.16"
FLOW = f"CIFAR-10, probability-flow ODE of the last checkpoint, RK45 at 1e-5; {INCEPTION}"
LIKELIHOOD = "CIFAR-10 test split, uniformly dequantised, probability-flow ODE of the last checkpoint, RK45 at 1e-5"
"""How score_sde_pytorch measured."""

FD, CS = "FD[digits]", "CS[digits]"
"""What stands for FID and Inception Score at the small scale."""


def quality_lines(
    what: str,
    find: tuple[str, str, str],
    fid: float,
    score: float | None,
    how: str,
    source: str = SONG_README,
    small: bool = True,
) -> list[Comparison]:
    """A model's two rows, Fréchet distance and class score.

    Arguments:
        what: Model and sampler, in words.
        find: Process, solver, and the configuration of the full scale.
        fid, score: The published numbers; None where there is none.
        how, source: Their protocol, and where they were read.
        small: Whether the small scale measures them.
    """
    process, solver, part = find
    lines = []
    for title, value, here, full in (("Fréchet distance", fid, FD, "FID"), ("class score", score, CS, "IS")):
        known = None if value is None else Published(value, full, how, source)
        place = at_scales(here if small else "", full, part, process=process, solver=solver)
        lines.append(Comparison(f"{what}: {title}", known, place))
    return lines


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
