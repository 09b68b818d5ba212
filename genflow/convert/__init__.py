"""Converts the authors' checkpoints (PFGM and score SDEs, PyTorch) to checkpoints of genflow, without running code.

`read` reads a file, `recognise` finds what its weights show, `configs` holds the published configurations, `plan`
combines the two, and `importer` writes the folder.
"""
