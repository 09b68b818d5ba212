"""The former name of `genflow.convert`; it goes with the next version."""

import sys
import warnings

from genflow.convert import configs, importer, plan, read, recognise

warnings.warn("genflow.published is now genflow.convert; the old name is removed in the next version", FutureWarning, 2)
modules = {"configs": configs, "importer": importer, "plan": plan, "read": read, "recognise": recognise}
sys.modules.update({f"genflow.published.{name}": module for name, module in modules.items()})
