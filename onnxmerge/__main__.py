"""``python -m onnxmerge``: the command line, where its script is not on the path."""

from onnxmerge.cli import main

main()
