"""The command line: `flujo`."""
