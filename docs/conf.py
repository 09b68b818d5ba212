"""Sphinx: pip install -e '.[docs]' && sphinx-build -W docs docs/_build"""

project = "genflow"
author = "The genflow authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "genflow"
exclude_patterns = ["_build"]
napoleon_custom_sections = [("Arguments", "params_style")]
autodoc_typehints = "description"


def setup(app):
    """Docstrings are plain text with (B, *) and |x|: keep reStructuredText from reading these as markup."""

    def escape(app, what, name, obj, options, lines):
        lines[:] = [line.replace("*", "\\*").replace("|", "\\|") for line in lines]

    app.connect("autodoc-process-docstring", escape, priority=1)
