"""Published checkpoints (PFGM and score SDEs, PyTorch): read without running code, recognised, and imported.

`read` takes a file apart, `recognise` says what its weights show, `configs` holds the published configurations, `plan`
joins the two, `importer` writes the folder.
"""
