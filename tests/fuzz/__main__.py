"""``make fuzz ARGS="json_batch -max_total_time=600"``: one target under atheris, which libFuzzer's options steer.

Without a name it lists the targets. What it finds it writes to a file, which it takes again as an argument.
"""

import sys

import atheris  # type: ignore[import-untyped]  # make fuzz installs it; it has no types

from tests.fuzz.mutation import MAX_SECONDS, MAX_SIZE, seconds_of


def main() -> None:
    """Fuzzes until the options say that it is enough, or until something is found."""
    with atheris.instrument_imports(include=["meanwhile", "httptools", "msgspec"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415  # What is imported here is instrumented.
    targets = {target.__name__: target for target in TARGETS}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        print("\n".join(targets))
        raise SystemExit(2)
    target = targets[sys.argv.pop(1)]

    def check(data: bytes) -> None:
        taken = seconds_of(target, data)
        if taken > MAX_SECONDS:
            raise AssertionError(f"it took {taken:.3f} s")

    atheris.Setup([*sys.argv, f"-max_len={MAX_SIZE}"], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
