"""How each kind of node behaves in a run, one kind a file."""
