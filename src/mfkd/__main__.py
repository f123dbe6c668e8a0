"""`python -m mfkd` is `mfkd`."""

import sys

from mfkd.hardware import share_cores


def main() -> None:
    """Run the command line; a plain question to an export goes the short way."""
    share_cores()
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
