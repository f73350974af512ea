"""What holds for every test: byte code is kept.

The tests start the shipped command hundreds of times, and each start would compile all of it again.
"""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
