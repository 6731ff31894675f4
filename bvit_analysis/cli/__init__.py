"""The command line: one file a group of subcommands, each a few lines over a function of the library."""

from bvit_analysis.cli.main import main as main
