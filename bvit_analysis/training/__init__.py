"""Trainings: one run from the float teacher to the record, and many of them over recipes and seeds."""

from bvit_analysis.training.evaluation import evaluate as evaluate
from bvit_analysis.training.interruption import Interrupted as Interrupted
from bvit_analysis.training.loop import distillation_loss as distillation_loss
from bvit_analysis.training.loop import learning_rate as learning_rate
from bvit_analysis.training.models import teacher_config as teacher_config
from bvit_analysis.training.models import teacher_run_id as teacher_run_id
from bvit_analysis.training.run import train as train
