"""Distil an ensemble of three teachers, which returns the mean of its members' logits.

Run `python examples/ensemble_teacher.py`: a few seconds, no download. `ensemble_teacher.yaml` is the same student as a
config for `kd-lightning fit`.
"""

from lightning import Trainer, seed_everything

from kd_lightning import MLP, DigitsDataModule, DistillModule, EnsembleTeacher, TeacherModule

QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}

# Members differ in their seed, which determines the initial weights and the order of the images.
files = []
for seed in range(3):
    seed_everything(seed)
    member = TeacherModule(MLP([64, 200, 10]))
    trainer = Trainer(max_epochs=10, **QUIET)
    trainer.fit(member, DigitsDataModule())
    (figures,) = trainer.test(member, DigitsDataModule(), verbose=False)
    print(f"member {seed}: {figures['test/errors']:.0f} errors of 360")
    files.append(f"lightning_logs/examples/ensemble_member_{seed}.ckpt")
    trainer.save_checkpoint(files[-1])

# An ensemble takes one file for each member.
few = DigitsDataModule(train_size=300, batch_size=32)
for name, teacher, teacher_ckpt in (
    ("one teacher", MLP([64, 200, 10]), files[0]),
    ("all three", EnsembleTeacher([MLP([64, 200, 10]) for _ in files]), files),
):
    seed_everything(0)
    student = DistillModule(MLP([64, 32, 10]), teacher=teacher, teacher_ckpt=teacher_ckpt, temperature=4.0)
    trainer = Trainer(max_epochs=30, **QUIET)
    trainer.fit(student, few)
    (figures,) = trainer.test(student, few, verbose=False)
    print(f"distilled from {name}: {figures['test/errors']:.0f} errors of 360")
