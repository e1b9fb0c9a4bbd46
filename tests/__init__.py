"""The tests of onnxmerge: a folder for each package, a file for each module."""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: workers run beside each other as it is
# A command of its own takes 3 s longer where it has to compile 600 modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
