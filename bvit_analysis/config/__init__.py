"""What a run is made of: frozen, keyword-only data, presets for recipes and scales, and their text form."""

from bvit_analysis.config.import_paths import import_path as import_path
from bvit_analysis.config.import_paths import resolve as resolve
from bvit_analysis.config.presets import FLOAT as FLOAT
from bvit_analysis.config.presets import RECIPE_ORDER as RECIPE_ORDER
from bvit_analysis.config.presets import RECIPES as RECIPES
from bvit_analysis.config.presets import SCALES as SCALES
from bvit_analysis.config.presets import get_recipe as get_recipe
from bvit_analysis.config.presets import get_scale as get_scale
from bvit_analysis.config.recipes import read_recipe as read_recipe
from bvit_analysis.config.recipes import resolve_recipe as resolve_recipe
from bvit_analysis.config.schema import DataConfig as DataConfig
from bvit_analysis.config.schema import ModelConfig as ModelConfig
from bvit_analysis.config.schema import Recipe as Recipe
from bvit_analysis.config.schema import RunConfig as RunConfig
from bvit_analysis.config.schema import TrainingConfig as TrainingConfig
from bvit_analysis.config.schema import WatchConfig as WatchConfig
from bvit_analysis.config.text import config_hash as config_hash
from bvit_analysis.config.text import from_dict as from_dict
from bvit_analysis.config.text import to_dict as to_dict
from bvit_analysis.config.text import with_overrides as with_overrides
