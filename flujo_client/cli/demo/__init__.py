"""`flujo demo`: the main job on real documents, with a worker killed in the middle."""
