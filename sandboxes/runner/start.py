"""Entry point of every sandbox image: ``python -I start.py``."""

import gc
import os
import sys

gc.disable()  # nothing of what a start makes is garbage, and to look for some is a tenth of its user time
HOME = "/usr/libexec/broker"
sys.path.insert(0, HOME)

from runner.serve import serve  # noqa: E402  # found by the line above
from runner.shield import raise_shield  # noqa: E402  # likewise
from runner.tool import be_tool  # noqa: E402  # likewise

raise_shield()
try:
    PROGRAM = serve()
except EOFError:
    os._exit(0)  # what an interpreter does at its end is of use to nobody here

# Only the forked child of a `python` job comes here: from now on this process is the tool.
be_tool(PROGRAM)
