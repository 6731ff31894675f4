"""Binary layers: the sign with its shift, the linear, the attention, and RPReLU."""

from bvit_analysis.layers.activation import RPReLU as RPReLU
from bvit_analysis.layers.attention import BinaryAttention as BinaryAttention
from bvit_analysis.layers.attention import BinaryProbabilities as BinaryProbabilities
from bvit_analysis.layers.linear import BinaryLinear as BinaryLinear
from bvit_analysis.layers.shift import BinarySign as BinarySign
from bvit_analysis.layers.shift import BottleneckShift as BottleneckShift
from bvit_analysis.layers.shift import StaticShift as StaticShift
from bvit_analysis.layers.shift import TokenMeanShift as TokenMeanShift
