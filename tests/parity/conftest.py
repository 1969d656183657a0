from measured import MEASURED


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("largest relative L2 difference from the reference")
    for test, (value, bound) in MEASURED.items():
        terminalreporter.line(f"{value:9.2e} (bound {bound:.0e})  {test}")
