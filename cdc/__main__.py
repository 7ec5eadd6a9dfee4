"""`python -m cdc` is `pgherald capture`."""

import sys

from cdc.runtime.cli import main

main(["capture", *sys.argv[1:]])
