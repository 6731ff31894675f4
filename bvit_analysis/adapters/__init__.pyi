from .accelerate import AcceleratedWatch as AcceleratedWatch
from .huggingface import watch_trainer as watch_trainer
from .lightning import WatchCallback as WatchCallback
from .tensorboard import export_tensorboard as export_tensorboard
from .trackio import export_trackio as export_trackio
