"""What ``tools/bench.py`` times, and beside what: networks of real size, jobs, floors, and a page about them."""
