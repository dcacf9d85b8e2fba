"""The console command `kd-lightning`: sends a word to the command that owns it."""

import sys

USAGE = """usage: kd-lightning COMMAND [OPTION ...]

  reproduce [RECIPE]   a published system, end to end: teacher, baseline, distilled students, comparison
  sweep CONFIG         students of many temperatures, soft weights and seeds, trained at once
  fit                  train what a config names        --config configs/digits/teacher.yaml
  validate             measure a run on its validation split
  test                 measure a run on the test set
  predict              write what a run says of each test image
  predict MODEL IMAGE  write what a checkpoint or an exported file says of image files, or of folders of them
  export CHECKPOINT    a network alone, to ship: ONNX and torch.export, checked and timed

kd-lightning COMMAND --help says more of each.
"""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")


def main(args: list[str] | None = None) -> int:
    """Run `kd-lightning` with the words given, or those of the process.

    Returns:
        The exit status: 0, or 2 for a mistake of the user's, which was named in one line on standard error.
    """
    words = sys.argv[1:] if args is None else args
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        from kd_lightning import __version__

        print(f"kd-lightning {__version__}")
        return 0
    # Each command imports torch and Lightning, seconds of waiting: only where they are needed.
    from kd_lightning.errors import UserError

    try:
        if words[0] == "reproduce":
            from kd_lightning.commands import reproduce

            reproduce.main(words[1:])
        elif words[0] == "sweep":
            from kd_lightning.commands import sweep

            sweep.main(words[1:])
        elif words[0] == "export":
            from kd_lightning.commands import export

            export.main(words[1:])
        elif words[0] == "predict" and len(words) > 1 and not words[1].startswith("-"):
            from kd_lightning.commands import predict

            predict.main(words[1:])
        elif words[0] in TRAINER_COMMANDS:
            from kd_lightning import cli

            cli.main(words)
        else:
            commands = ", ".join(("reproduce", "sweep", "export", *TRAINER_COMMANDS))
            raise UserError(f"command: {words[0]} found, one of {commands} expected")
    except UserError as error:
        print(f"kd-lightning: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kd-lightning: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
