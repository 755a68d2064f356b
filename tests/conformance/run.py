#!/usr/bin/env python3
"""Runs the Autobahn test suite's fuzzing client against ringmain's echo door.

    tests/conformance/run.py all              all 517 cases (about seven minutes)
    tests/conformance/run.py 1 2 3 4 5 6 7    these sections
    tests/conformance/run.py 6.4.* 12.1.1     these cases

Prints counts per section. Exits with 0 only if every requested case ran, none failed, only 6.4.* is non-strict, and the
compression sections 12 and 13 are OK throughout. Reports in HTML: reports/autobahn/index.html.

The suite needs Python 2.7. This script makes an environment for it under .tools/autobahn on its first run.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

REPO = pathlib.Path(__file__).resolve().parents[2]
TOOLS = REPO / ".tools" / "autobahn"
REPORTS = REPO / "reports" / "autobahn"
BINARY = REPO / "target" / "release" / "ringmain"

# The suite was written for these; later ones break it in one way or another.
VIRTUALENV = "virtualenv==20.21.1"  # the last that can make Python 2.7 environments
PINS = """
    autobahntestsuite==25.10.1 autobahn==0.10.9 txaio==2.1.0 twisted==20.3.0 zope.interface==4.7.2 klein==17.10.0
    werkzeug==0.16.1 jinja2==2.11.3 markupsafe==1.1.1 unittest2==1.1.0 wsaccel==0.6.2 ujson==1.35
""".split()

# Cases in each section of that suite. A section that comes back with fewer did not run.
CASES = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}

# Cases that may be non-strict: invalid UTF-8 noticed later than it could have been.
NON_STRICT_ALLOWED = "6.4."

# Compression: nothing but OK.
STRICT_SECTIONS = (12, 13)

# The suite sends messages of 16 MiB and in 65,536 fragments.
SERVER_ENVIRONMENT = {
    "RINGMAIN_ECHO__ENABLED": "true",
    "RINGMAIN_WEBSOCKET__MESSAGE_BYTES_MAX": "64MiB",
    "RINGMAIN_WEBSOCKET__FRAGMENTS_MAX": "65536",
    "RINGMAIN_WEBSOCKET__DEFLATE": "true",
}

START_SECONDS_MAX = 20


def main():
    arguments = parse_arguments()
    wstest = install_suite()
    if arguments.url:
        outcome = run_suite(wstest, arguments.url, arguments.cases)
    else:
        with Server(arguments.server, arguments.io) as server:
            outcome = run_suite(wstest, f"ws://127.0.0.1:{server.port}/echo", arguments.cases)
    return judge(outcome, arguments.cases)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["all"], help="all, sections (7), or patterns (6.4.*)")
    parser.add_argument("--server", default=str(BINARY), help="the ringmain binary (default: %(default)s)")
    parser.add_argument("--io", default="auto", help="the server's kernel interface: auto, uring or epoll (default: %(default)s)")
    parser.add_argument("--url", help="test a server that is already running, such as ws://127.0.0.1:8000/echo")
    return parser.parse_args()


# The suite -----------------------------------------------------------------------------------------------------------------


def install_suite():
    """The suite's program, installed first if it is not there in these versions."""
    wstest = TOOLS / "python" / "bin" / "wstest"
    installed = TOOLS / "installed.txt"
    wanted = "\n".join([VIRTUALENV, *PINS])
    if wstest.exists() and installed.exists() and installed.read_text() == wanted:
        return wstest
    python = find_python27()
    print(f"installing the Autobahn test suite under {TOOLS.relative_to(REPO)} (once), with {python}", flush=True)
    shutil.rmtree(TOOLS, ignore_errors=True)
    TOOLS.mkdir(parents=True)
    bootstrap = TOOLS / "bootstrap"
    step([sys.executable, "-m", "venv", bootstrap], "python3's venv module (Debian: apt-get install python3-venv)")
    step([bootstrap / "bin" / "pip", "install", "-q", VIRTUALENV], f"{VIRTUALENV} from PyPI")
    step([bootstrap / "bin" / "virtualenv", "-q", "-p", python, TOOLS / "python"], "a Python 2.7 environment")
    step([TOOLS / "python" / "bin" / "pip", "install", "-q", *PINS], "the suite's packages from PyPI and a C compiler")
    installed.write_text(wanted)
    return wstest


def find_python27():
    """An interpreter that really runs: a version manager's shim may be there without one behind it."""
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [*sorted(pyenv.glob("versions/2.7*/bin/python2.7"), reverse=True), shutil.which("python2.7")]
    for candidate in filter(None, candidates):
        probe = [str(candidate), "-c", "import sys, ctypes, ssl; assert sys.version_info[:2] == (2, 7)"]
        if subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return candidate
    fail(
        "Python 2.7 is missing: the Autobahn test suite runs on nothing newer. Looked for python2.7 in PATH and in "
        f"{pyenv}/versions. To get it:\n"
        "    apt-get install -y build-essential libssl-dev zlib1g-dev libffi-dev libbz2-dev libreadline-dev libsqlite3-dev\n"
        "    curl -fsSL https://pyenv.run | bash && ~/.pyenv/bin/pyenv install 2.7.18"
    )


def step(command, needs):
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        fail(f"{result.stdout}\ninstalling the suite failed; this step needs {needs}")


def run_suite(wstest, url, cases):
    """Runs the cases; each one's outcome as the suite reports it, by its number."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    spec = REPORTS / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(REPORTS),
                "servers": [{"agent": "ringmain", "url": url}],
                "cases": [pattern(case) for case in cases],
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    log = REPORTS / "wstest.log"
    with log.open("w") as output:
        command = [str(wstest), "--mode", "fuzzingclient", "--spec", str(spec)]
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPORTS).returncode
    index = REPORTS / "index.json"
    if status != 0 or not index.exists():
        fail(f"the suite ended with status {status}; see {log}")
    return json.loads(index.read_text()).get("ringmain", {})


def pattern(case):
    """What the suite calls the cases that the user asked for."""
    if case == "all":
        return "*"
    return f"{case}.*" if case.isdigit() else case


# The server ----------------------------------------------------------------------------------------------------------------


class Server:
    """The built binary on a free port, in development mode with its echo door open."""

    def __init__(self, binary, io):
        if not os.access(binary, os.X_OK):
            fail(f"{binary} is missing: build it with `cargo build --release`")
        self.binary = binary
        self.io = io

    def __enter__(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RINGMAIN_")}
        self.process = subprocess.Popen(
            [self.binary, "serve", "--listen", "127.0.0.1:0", "--workers", "1", "--io", self.io],
            env={**environment, **SERVER_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.printed = []
        self.port = None
        self.listening = threading.Event()
        threading.Thread(target=self.read_output, daemon=True).start()
        if not self.listening.wait(START_SECONDS_MAX) or self.port is None:
            self.__exit__()
            fail("the server printed no address:\n" + "".join(self.printed))
        return self

    def read_output(self):
        """Notes the port from the first address printed, and goes on reading so that the server never blocks."""
        for line in self.process.stdout:
            self.printed.append(line)
            address = re.search(r"127\.0\.0\.1:([1-9]\d*)", line)
            if self.port is None and address:
                self.port = int(address.group(1))
                self.listening.set()
        self.listening.set()

    def __exit__(self, *_):
        died = self.process.poll()
        if died is not None:
            print(f"the server ended by itself with status {died}:\n{''.join(self.printed[-40:])}")
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# The verdict ---------------------------------------------------------------------------------------------------------------


def judge(outcome, cases):
    """Prints counts per section and what is wrong; the exit status."""
    counts = collections.defaultdict(collections.Counter)
    wrong = []
    for case, report in sorted(outcome.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        section = int(case.split(".")[0])
        result = classify(report)
        counts[section][result] += 1
        if not allowed(case, section, result):
            wrong.append(f"{case}: {report['behavior']}, close {report['behaviorClose']}; {REPORTS / report['reportfile']}")
    print_counts(counts)
    wrong += missing(counts, cases)
    print("\n".join(wrong) if wrong else "conformance: passed")
    return 1 if wrong else 0


def classify(report):
    """One word for a case: the message part's behaviour, unless the closing handshake went wrong."""
    if report["behavior"] not in ("OK", "NON-STRICT", "INFORMATIONAL") or report["behaviorClose"] not in ("OK", "INFORMATIONAL"):
        return "FAILED"
    return report["behavior"]


def allowed(case, section, result):
    if result == "NON-STRICT":
        return case.startswith(NON_STRICT_ALLOWED)
    if result == "INFORMATIONAL":
        return section not in STRICT_SECTIONS
    return result == "OK"


def missing(counts, cases):
    """Sections that were asked for as a whole and came back short."""
    sections = CASES if "all" in cases else [int(case) for case in cases if case.isdigit()]
    for section in sections:
        ran, expected = sum(counts[section].values()), CASES.get(section, 0)
        if ran != expected or not expected:
            yield f"section {section}: {ran} of {expected} cases ran"
    if not any(counts.values()):
        yield "no case ran"


def print_counts(counts):
    columns = ["OK", "NON-STRICT", "INFORMATIONAL", "FAILED"]
    total = sum(counts.values(), collections.Counter())
    print(f"{'section':>7} {'cases':>6}" + "".join(f"{column:>15}" for column in columns))
    for name, row in [*sorted(counts.items()), ("all", total)]:
        print(f"{name:>7} {sum(row.values()):>6}" + "".join(f"{row[column]:>15}" for column in columns))


def fail(message):
    sys.exit(f"conformance: {message}")


if __name__ == "__main__":
    sys.exit(main())
