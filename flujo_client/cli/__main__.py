"""`python -m flujo_client.cli`: the command line, where no script is installed."""

from flujo_client.cli.main import main

main()
