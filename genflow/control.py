"""The old name of `genflow.inpainting`."""

import warnings

from genflow.inpainting import Measurement as Known
from genflow.inpainting import Replacement, colourise, constrain, inpaint

__all__ = ["Known", "Replacement", "colourise", "constrain", "inpaint"]

warnings.warn("genflow.control is now genflow.inpainting, and its Known Measurement", FutureWarning, stacklevel=2)
