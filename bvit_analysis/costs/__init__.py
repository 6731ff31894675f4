"""Parameters, bytes, multiply-accumulates and operations of a ViT per site, under named conventions.

`ledger` counts what is in the model and what one image makes it do, in `rows`; `conventions` says which of it a published
figure counts and at what weight; `model` puts both beside the float twin. `switches` holds the choices of a convention
with their sources, `reconcile` searches their combinations for a published ratio, `published` holds rows of other works.
"""

from bvit_analysis.costs.conventions import CONVENTIONS as CONVENTIONS
from bvit_analysis.costs.conventions import Convention as Convention
from bvit_analysis.costs.model import ModelCost as ModelCost
from bvit_analysis.costs.model import model_cost as model_cost
from bvit_analysis.costs.model import recorded_cost as recorded_cost
from bvit_analysis.costs.published import published_table as published_table
from bvit_analysis.costs.reconcile import CLAIMS as CLAIMS
from bvit_analysis.costs.reconcile import Claim as Claim
from bvit_analysis.costs.reconcile import account as account
from bvit_analysis.costs.reconcile import chance as chance
from bvit_analysis.costs.reconcile import compare as compare
from bvit_analysis.costs.reconcile import expected_hits as expected_hits
from bvit_analysis.costs.reconcile import parse_claims as parse_claims
from bvit_analysis.costs.reconcile import reconcile as reconcile
from bvit_analysis.costs.report import MARKS as MARKS
from bvit_analysis.costs.report import json_report as json_report
from bvit_analysis.costs.report import text_report as text_report
from bvit_analysis.costs.switches import SWITCHES as SWITCHES
from bvit_analysis.costs.switches import Combination as Combination
from bvit_analysis.costs.switches import Setting as Setting
from bvit_analysis.costs.switches import Switch as Switch
from bvit_analysis.costs.switches import combinations as combinations
from bvit_analysis.costs.switches import other_shifts as other_shifts
