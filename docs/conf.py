"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import offdyn_envs  # noqa: E402

project = "offdyn"
author = "The offdyn maintainers"
project_copyright = author
version = release = offdyn_envs.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
    "sphinx_copybutton",
    "plain_docstrings",
    "generated",
]
exclude_patterns = ["_build", "_ext", "conf.py", "results/*/**", "**.ipynb_checkpoints", "jupyter_execute"]
templates_path = ["_templates"]
# Two classes may have one short name; functions of templates are part of the configuration.
suppress_warnings = ["ref.python", "config.cache"]

# Markdown. Blocks without a language are commands.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
highlight_language = "none"

# Notebooks are Python files; `make docs` runs them, `make docs NOTEBOOKS=off` does not.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
# They train for seconds, and compiling takes longer; one thread each, as the build uses all cores.
os.environ |= {"OFFDYN_COMPILE": "0", "OMP_WAIT_POLICY": "PASSIVE"}
nb_execution_mode = os.environ.get("OFFDYN_DOCS_NOTEBOOKS", "off")
nb_execution_timeout = 240
nb_execution_raise_on_error = True
nb_execution_excludepatterns = ["conf.py"]
nb_execution_in_temp = True
nb_merge_streams = True

# Docstrings: shapes in bars and names in single backticks, see _ext/plain_docstrings.py.
smartquotes = False
default_role = "code"
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"offdyn {release}"
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Names that are imported when they are first used are there before anything is documented.
for package in ("offdyn", "offdyn_envs"):
    module = import_module(package)
    for name in module.__all__:
        getattr(module, name)
