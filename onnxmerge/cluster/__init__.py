"""Where work runs that goes to other processes: ``ray_cluster`` takes it there, ``models`` is how networks travel."""
