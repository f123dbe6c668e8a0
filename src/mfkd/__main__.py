"""`python -m mfkd` is `mfkd`."""

import os
import sys

SPIN = "10000"
"""Looks of an OpenMP thread for the next piece of work before it sleeps; the library's own number is 30 times that.

Where another program wants the cores too, a thread that looks for long keeps the one from them that has the work.
"""


def main() -> None:
    """Run the command line; a plain question to an export goes the short way."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read once, when torch is loaded
    if sys.argv[1:2] == ["predict"]:
        from mfkd.errors import MfkdError
        from mfkd.export.quick import predict

        try:
            if predict(sys.argv[2:]):
                return
        except MfkdError as error:
            from mfkd.cli import refuse

            refuse(error)
    from mfkd.cli import main as whole

    whole()


if __name__ == "__main__":
    main()
