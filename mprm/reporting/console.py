"""The end of a comparison in the terminal."""

from mprm.reporting.report import print_table as print_table
