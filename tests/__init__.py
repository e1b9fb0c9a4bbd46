"""The tests of onnxmerge: a folder for each package, a file for each module."""
