from .model import PackedModel as PackedModel
from .model import load_runtime as load_runtime
