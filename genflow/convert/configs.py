"""The published configurations of PFGM (Xu et al. 2022) and of score SDEs (Song et al. 2021), as far as sampling goes.

Keys, values and names are those of the authors' configuration files. Two are left out: ve/cifar10_ddpm, whose network
looks noise levels up by an index that a continuous noise level does not have, and ve/ncsn/cifar10, which is the first
NCSN and not in genflow. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genflow.registry import unknown

Config = dict[str, dict[str, Any]]
"""Sections "model", "data", "training" and "sampling", each of plain values."""

_NOISE = {"sigma_min": 0.01, "sigma_max": 50, "num_scales": 1000, "beta_min": 0.1, "beta_max": 20.0}
_SHARED = {
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "attn_resolutions": (16,),
    "dropout": 0.1,
    "resamp_with_conv": True,
    "scale_by_sigma": False,
    "ema_rate": 0.9999,
    **_NOISE,
}

DDPM = {**_SHARED, "name": "ddpm", "num_res_blocks": 2}
DDPMPP = {
    **_SHARED,
    "name": "ncsnpp",
    "num_res_blocks": 4,
    "fir": False,
    "fir_kernel": (1, 3, 3, 1),
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "none",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "fourier_scale": 16,
    "init_scale": 0.0,
}
DEEP = {**DDPMPP, "num_res_blocks": 8}
NCSNPP = {**DDPMPP, "fir": True, "progressive_input": "residual"}
VE_NCSNPP = {**NCSNPP, "embedding_type": "fourier", "scale_by_sigma": True, "ema_rate": 0.999}
VE_PYRAMIDS = {
    **VE_NCSNPP,
    "ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "num_res_blocks": 2,
    "dropout": 0.0,
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "num_scales": 2000,
}
NCSNV2 = {"name": "ncsnv2_64", "nf": 128, "scale_by_sigma": True, "ema_rate": 0.999, **_NOISE, "num_scales": 232}
"""Networks."""

CIFAR10 = {"dataset": "CIFAR10", "image_size": 32, "num_channels": 3, "centered": True}
CELEBA = {**CIFAR10, "dataset": "CELEBA", "image_size": 64}
BEDROOM = {**CIFAR10, "dataset": "LSUN", "category": "bedroom", "image_size": 256}
CHURCH = {**BEDROOM, "category": "church_outdoor"}
CELEBAHQ = {**CIFAR10, "dataset": "CelebAHQ", "image_size": 256}
FFHQ = {**CIFAR10, "dataset": "FFHQ", "image_size": 256}
"""Data, centred: on [−1, 1]. The variance-exploding models leave theirs on [0, 1]."""


def _poisson(
    model: Mapping[str, Any], data: Mapping[str, Any], z_max: float, upper_norm: float, z_exp: float, m: int = 291
) -> Config:
    return {
        "model": {"sigma_end": 0.01, **model},
        "data": dict(data),
        "training": {"sde": "poisson", "continuous": True, "M": m, "gamma": 5, "tau": 0.03},
        "sampling": {"z_max": z_max, "z_min": 1e-3, "z_exp": z_exp, "upper_norm": upper_norm},
    }


def _sde(sde: str, model: Mapping[str, Any], continuous: bool = True, data: Mapping[str, Any] = CIFAR10) -> Config:
    return {
        "model": dict(model),
        "data": {**data, "centered": sde != "vesde"},
        "training": {"sde": sde, "continuous": continuous},
        "sampling": {},
    }


PRESETS: dict[str, Config] = {
    "poisson/cifar10_ddpmpp": _poisson(DDPMPP, CIFAR10, 40, 3000, 5),
    "poisson/cifar10_ddpmpp_deep": _poisson(DEEP, CIFAR10, 40, 3000, 5),
    "poisson/cifar10_ncsnpp": _poisson(
        {**NCSNPP, "embedding_type": "fourier", "ema_rate": 0.999}, CIFAR10, 40, 3000, 5
    ),
    "poisson/celeba64_ddpmpp": _poisson({**DDPMPP, "sigma_max": 90.0}, CELEBA, 60, 6000, 1),
    "poisson/bedroom_ddpmpp": _poisson(
        {
            **DDPMPP,
            "ch_mult": (1, 1, 2, 2, 4, 4),
            "num_res_blocks": 2,
            "dropout": 0.0,
            "sigma_max": 378,
            "num_scales": 2000,
        },
        BEDROOM,
        100,
        30000,
        0.1,
        356,
    ),
    "vp/cifar10_ddpmpp_continuous": _sde("vpsde", DDPMPP),
    "vp/cifar10_ddpmpp_deep_continuous": _sde("vpsde", DEEP),
    "vp/cifar10_ncsnpp_continuous": _sde("vpsde", NCSNPP),
    "vp/cifar10_ddpmpp": _sde("vpsde", DDPMPP, False),
    "vp/ddpm/cifar10": _sde("vpsde", DDPM, False),
    "vp/ddpm/cifar10_continuous": _sde("vpsde", DDPM),
    "subvp/cifar10_ddpm_continuous": _sde("subvpsde", DDPM),
    "subvp/cifar10_ddpmpp_continuous": _sde("subvpsde", DDPMPP),
    "subvp/cifar10_ddpmpp_deep_continuous": _sde("subvpsde", DEEP),
    "subvp/cifar10_ncsnpp_continuous": _sde("subvpsde", NCSNPP),
    "ve/cifar10_ncsnpp_continuous": _sde("vesde", VE_NCSNPP),
    "ve/cifar10_ncsnpp_deep_continuous": _sde("vesde", {**VE_NCSNPP, "num_res_blocks": 8}),
    "ve/cifar10_ncsnpp": _sde("vesde", {**VE_NCSNPP, "embedding_type": "positional"}, False),
    "ve/celeba_ncsnpp": _sde("vesde", {**VE_NCSNPP, "embedding_type": "positional", "sigma_max": 90.0}, False, CELEBA),
    "ve/bedroom_ncsnpp_continuous": _sde("vesde", {**VE_PYRAMIDS, "sigma_max": 378}, True, BEDROOM),
    "ve/church_ncsnpp_continuous": _sde("vesde", {**VE_PYRAMIDS, "sigma_max": 380}, True, CHURCH),
    "ve/celebahq_256_ncsnpp_continuous": _sde("vesde", {**VE_PYRAMIDS, "sigma_max": 348}, True, CELEBAHQ),
    "ve/ffhq_256_ncsnpp_continuous": _sde("vesde", {**VE_PYRAMIDS, "sigma_max": 348}, True, FFHQ),
    "ve/ffhq_ncsnpp_continuous": _sde(
        "vesde",
        {
            **VE_PYRAMIDS,
            "nf": 16,
            "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
            "num_res_blocks": 1,
            "sigma_max": 1348,
            "ema_rate": 0.9999,
        },
        True,
        {**FFHQ, "image_size": 1024},
    ),
    "ve/ncsnv2/cifar10": _sde("vesde", NCSNV2, False),
    "ve/ncsnv2/celeba": _sde("vesde", {**NCSNV2, "num_scales": 500, "sigma_max": 90.0}, False, CELEBA),
    "ve/ncsnv2/bedroom": _sde(
        "vesde",
        {**NCSNV2, "name": "ncsnv2_128", "num_scales": 1086, "sigma_max": 190, "ema_rate": 0.9999},
        False,  # the file says so under a misspelt key
        {**BEDROOM, "image_size": 128},
    ),
}
"""Configurations by the path of the authors' file."""


def preset(name: str) -> Config:
    """A published configuration.

    Raises:
        ValueError: Unknown name; the nearest known one is given.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
