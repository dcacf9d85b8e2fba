"""A help page of one screen for each command, without importing torch."""

from kd_lightning.cli.arguments import PARSERS

SUMMARIES = {
    "fit": "Train the model of a config. The config's logger names the run folder.",
    "validate": "Evaluate a trained network on the validation split: the run of the config, or of --ckpt_path.",
    "test": "Evaluate a trained network on the test set: the run of the config, or of --ckpt_path.",
}

RUN_OPTIONS = {
    "fit": """\
  --ckpt_path RUN           resume from a checkpoint, or from the last of a run folder
  --seed_everything N       seed of weights, batch order and augmentation
  --label WORD              name of the run, in its results and checkpoints
  --disable_callbacks LIST  default callbacks to leave out, such as '[Dashboard]'
""",
    "other": """\
  --ckpt_path RUN           a checkpoint, or a run folder: its best, else its last
""",
}

OPTIONS = {
    "fit": """\
  --model.net CLASS         such as kd_lightning.models.MLP; its options as --model.net.widths
  --model.teacher_ckpt RUN  the teacher's run folder, checkpoint or state dict
  --model.temperature T     and --model.hard_weight W, --model.soft_weight W, --model.soft_loss NAME
  --model.optimizer CLASS   such as torch.optim.AdamW; its options as --model.optimizer.lr R
  --data CLASS_OR_FILE      such as kd_lightning.data.ImageFolderDataModule, or its YAML
  --data.root FOLDER        folder of the data; also --data.batch_size N, --data.val_size N
  --trainer.max_epochs N    number of passes over the training images
""",
    "other": """\
  --data CLASS_OR_FILE      such as kd_lightning.data.ImageFolderDataModule, or its YAML
  --data.root FOLDER        folder of the data; also --data.eval_batch_size N
""",
}

TRAINER_PAGE = """\
usage: kd-lightning {command} --config FILE [--OPTION VALUE ...]

{head}

  --config FILE             a YAML, or a stage of a recipe, such as digits/teacher; later files and
                            options override earlier ones
{run}  --threads N               CPU threads; small networks are fastest with one

Every option of model, data and trainer can be set. The most common:
{parts}  --trainer.accelerator A   gpu, cpu, …; also --trainer.devices N, --trainer.strategy ddp
  --trainer.precision P     bf16-mixed, 32-true, …; also --matmul_precision high

All options:
  --print_config            print every option with its value, and run nothing
  --model.help CLASS        options of a class; also --data.help, --model.net.help, …
  --help_all                help of the Lightning CLI, hundreds of lines
"""

COMPLETION_PAGE = """\
usage: kd-lightning completion SHELL

Print the script that completes commands, options, recipes and files.

  bash, zsh     source <(kd-lightning completion bash)    in this shell, or in ~/.bashrc, ~/.zshrc
  fish          kd-lightning completion fish | source
"""


def page_of(command: str) -> str | None:
    """Return the help page of a command; None for an unknown command."""
    if command in SUMMARIES:
        kind = "fit" if command == "fit" else "other"
        return TRAINER_PAGE.format(command=command, head=SUMMARIES[command], run=RUN_OPTIONS[kind], parts=OPTIONS[kind])
    if command == "completion":
        return COMPLETION_PAGE
    return PARSERS[command]().format_help() if command in PARSERS else None
