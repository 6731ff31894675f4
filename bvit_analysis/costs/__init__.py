"""Parameters, bytes, multiply-accumulates and operations of a ViT per site, under named conventions.

`ledger` counts what is in the model and what one image makes it do; `conventions` says which of it a published
figure counts and at what weight; `model` puts both beside the float twin.
"""

from bvit_analysis.costs.conventions import CONVENTIONS as CONVENTIONS
from bvit_analysis.costs.conventions import Convention as Convention
from bvit_analysis.costs.model import ModelCost as ModelCost
from bvit_analysis.costs.model import model_cost as model_cost
