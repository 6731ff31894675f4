"""Binary layers: the sign with its shift, the linear, the attention, and RPReLU."""

from bvit_analysis.layers.activation import RPReLU as RPReLU
from bvit_analysis.layers.attention import BinaryAttention as BinaryAttention
from bvit_analysis.layers.attention import BinaryProbabilities as BinaryProbabilities
from bvit_analysis.layers.attention_rule import ATTENTION_RULES as ATTENTION_RULES
from bvit_analysis.layers.attention_rule import AttentionRule as AttentionRule
from bvit_analysis.layers.attention_rule import BooleanRule as BooleanRule
from bvit_analysis.layers.attention_rule import ElasticRule as ElasticRule
from bvit_analysis.layers.attention_rule import LevelForm as LevelForm
from bvit_analysis.layers.linear import BinaryLinear as BinaryLinear
from bvit_analysis.layers.shift import SHIFTS as SHIFTS
from bvit_analysis.layers.shift import BinarySign as BinarySign
from bvit_analysis.layers.shift import BottleneckShift as BottleneckShift
from bvit_analysis.layers.shift import MeanForm as MeanForm
from bvit_analysis.layers.shift import NoShift as NoShift
from bvit_analysis.layers.shift import Shift as Shift
from bvit_analysis.layers.shift import ShiftCost as ShiftCost
from bvit_analysis.layers.shift import StaticShift as StaticShift
from bvit_analysis.layers.shift import TokenMeanShift as TokenMeanShift
from bvit_analysis.layers.shift import token_mean as token_mean
