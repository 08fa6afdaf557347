"""How the documentation is built: MyST pages, docstrings by autodoc, pages written from the code by `_ext`."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "normsmith"
author = "The normsmith authors"
project_copyright = "The normsmith authors"
version = release = installed("normsmith")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "from_code",
    "mathml",
    "offline_pages",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "literal"  # the docstrings write code in single backticks
suppress_warnings = ["ref.python"]  # a class and its re-export are one thing

html_theme = "furo"
html_title = "normsmith"
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
smartquotes_action = "qe"  # quotes and ellipses; two hyphens begin an option and stay
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_extra_path = ["explorer.html", "gallery.html"]
