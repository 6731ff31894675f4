from .model import load_packed as load_packed
from .model import save_packed as save_packed
