"""The methods, a module each, with a ``METHOD`` that ``registry`` finds."""
