"""What two processes must agree on. A leaf: the worker imports this package and nothing else of the client."""
