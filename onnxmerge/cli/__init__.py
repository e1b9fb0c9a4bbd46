"""The command line: thin click commands that parse, call the API and print."""

from onnxmerge.cli.main import main

__all__ = ["main"]
