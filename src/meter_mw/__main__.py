"""`python -m meter_mw`: the command line, where scripts are not on the path."""

from meter_mw.cli import main

main(prog_name="meter-mw")
