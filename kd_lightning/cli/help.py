"""A page of help for each command, on one screen and without torch."""

from kd_lightning.cli.arguments import PARSERS

HEADS = {
    "fit": "Train what a config names; the run is kept in the folder that its logger names.",
    "validate": "Measure a trained network on the validation split: the config's run, or that of --ckpt_path.",
    "test": "Measure a trained network on the test set: the config's run, or that of --ckpt_path.",
}

RUN = {
    "fit": """\
  --ckpt_path RUN           go on from a checkpoint, or from the last one of a run folder
  --seed_everything N       the seed of weights, order and views
  --label WORD              what tells the run from others, in its results and checkpoints
""",
    "other": """\
  --ckpt_path RUN           a checkpoint, or a run folder: its best one, else its last
""",
}

PARTS = {
    "fit": """\
  --model.net CLASS         a network, as kd_lightning.models.MLP; its options as --model.net.widths
  --model.teacher_ckpt RUN  the teacher's run folder, checkpoint or state dict
  --model.temperature T     and --model.hard_weight W, --model.soft_weight W, --model.soft_loss NAME
  --model.optimizer CLASS   as torch.optim.AdamW; its options as --model.optimizer.lr R
  --data CLASS_OR_FILE      as kd_lightning.data.ImageFolderDataModule, or a YAML of one
  --data.root FOLDER        where the data is; also --data.batch_size N, --data.val_size N
  --trainer.max_epochs N    how often the training images are seen
""",
    "other": """\
  --data CLASS_OR_FILE      as kd_lightning.data.ImageFolderDataModule, or a YAML of one
  --data.root FOLDER        where the data is; also --data.eval_batch_size N
""",
}

TRAINER_PAGE = """\
usage: kd-lightning {command} --config FILE [--OPTION VALUE ...]

{head}

  --config FILE             a YAML; a further one, and each option, overrides what comes before it
{run}  --threads N               of the CPU; small networks are fastest with one

Whatever a config says of model, data and trainer can be overridden; what most often is:
{parts}  --trainer.accelerator A   gpu, cpu, …; also --trainer.devices N, --trainer.strategy ddp
  --trainer.precision P     bf16-mixed, 32-true, …; also --matmul_precision high

All options:
  --print_config            each with its value under this config; nothing is run
  --model.help CLASS        those of a class; in the same way --data.help, --model.net.help, …
  --help_all                the Lightning CLI's own help, hundreds of lines
"""

COMPLETION_PAGE = """\
usage: kd-lightning completion SHELL

Print what a shell has to read to complete commands, options, recipes and files.

  bash, zsh     source <(kd-lightning completion bash)    here, or for good in ~/.bashrc or ~/.zshrc
  fish          kd-lightning completion fish | source
"""


def page_of(command: str) -> str | None:
    """The page of a command; None where there is none here, and the command has its own."""
    if command in HEADS:
        kind = "fit" if command == "fit" else "other"
        return TRAINER_PAGE.format(command=command, head=HEADS[command], run=RUN[kind], parts=PARTS[kind])
    if command == "completion":
        return COMPLETION_PAGE
    return PARSERS[command]().format_help() if command in PARSERS else None
