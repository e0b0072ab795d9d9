"""`python none_skipped.py -m pytest ARGUMENTS`: pytest, for which a test that was skipped has proved nothing."""

import sys

import pytest


class NoneSkipped:
    skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.skipped += report.skipped


if __name__ == "__main__":
    found = NoneSkipped()
    code = pytest.main(sys.argv[sys.argv.index("pytest") + 1 :], plugins=[found])
    sys.exit(int(code) or int(found.skipped > 0))
