"""Runs in, tidy pandas tables out: the only numbers that plots, notebooks and reports show.

The unit of every comparison is the run. Float runs are the teacher's: shown, never compared.
"""

from __future__ import annotations

from bvit_analysis.tables.ablation import ablation_table as ablation_table
from bvit_analysis.tables.ablation import comparability as comparability
from bvit_analysis.tables.ablation import finding as finding
from bvit_analysis.tables.ablation import scale_table as scale_table
from bvit_analysis.tables.ablation import verdict_table as verdict_table
from bvit_analysis.tables.atlas import ATLAS_METRICS as ATLAS_METRICS
from bvit_analysis.tables.atlas import Atlas as Atlas
from bvit_analysis.tables.atlas import AtlasMetric as AtlasMetric
from bvit_analysis.tables.atlas import atlas_metric as atlas_metric
from bvit_analysis.tables.atlas import colour_limits as colour_limits
from bvit_analysis.tables.atlas import site_atlas as site_atlas
from bvit_analysis.tables.attention import attention_table as attention_table
from bvit_analysis.tables.attention import class_names as class_names
from bvit_analysis.tables.attention import token_grid as token_grid
from bvit_analysis.tables.bimodality import bimodality_at as bimodality_at
from bvit_analysis.tables.bimodality import bimodality_verdict as bimodality_verdict
from bvit_analysis.tables.bimodality import distribution_steps as distribution_steps
from bvit_analysis.tables.bimodality import statistics_disagree as statistics_disagree
from bvit_analysis.tables.channels import channel_entropy as channel_entropy
from bvit_analysis.tables.channels import channel_sites as channel_sites
from bvit_analysis.tables.channels import channel_steps as channel_steps
from bvit_analysis.tables.choices import pair_of_seed as pair_of_seed
from bvit_analysis.tables.choices import step_at as step_at
from bvit_analysis.tables.costs import against_claim as against_claim
from bvit_analysis.tables.costs import claim_finding as claim_finding
from bvit_analysis.tables.costs import operations_by_part as operations_by_part
from bvit_analysis.tables.costs import size_by_part as size_by_part
from bvit_analysis.tables.evidence import run_table as run_table
from bvit_analysis.tables.frames import LAST_HALF as LAST_HALF
from bvit_analysis.tables.frames import flip_counts as flip_counts
from bvit_analysis.tables.frames import flip_totals as flip_totals
from bvit_analysis.tables.frames import late_by_site as late_by_site
from bvit_analysis.tables.frames import late_rows as late_rows
from bvit_analysis.tables.frames import mean_over_sites as mean_over_sites
from bvit_analysis.tables.frames import place as place
from bvit_analysis.tables.frames import scalar_frame as scalar_frame
from bvit_analysis.tables.frames import site_frame as site_frame
from bvit_analysis.tables.frames import site_summary as site_summary
from bvit_analysis.tables.frames import weight_sites as weight_sites
from bvit_analysis.tables.inventory import config_table as config_table
from bvit_analysis.tables.inventory import damage as damage
from bvit_analysis.tables.inventory import inventory as inventory
from bvit_analysis.tables.metrics import FLOAT as FLOAT
from bvit_analysis.tables.metrics import METRICS as METRICS
from bvit_analysis.tables.metrics import RECIPE_ORDER as RECIPE_ORDER
from bvit_analysis.tables.metrics import Metric as Metric
from bvit_analysis.tables.metrics import metric as metric
from bvit_analysis.tables.metrics import ordered as ordered
from bvit_analysis.tables.packed import BINARIZED as BINARIZED
from bvit_analysis.tables.packed import RIVALS as RIVALS
from bvit_analysis.tables.packed import SAVINGS as SAVINGS
from bvit_analysis.tables.packed import PackedBenchmark as PackedBenchmark
from bvit_analysis.tables.packed import amdahl as amdahl
from bvit_analysis.tables.packed import packed_account as packed_account
from bvit_analysis.tables.packed import packed_benchmark as packed_benchmark
from bvit_analysis.tables.packed import packed_finding as packed_finding
from bvit_analysis.tables.packed import packed_savings as packed_savings
from bvit_analysis.tables.packed import shipped_benchmark as shipped_benchmark
from bvit_analysis.tables.selection import Runs as Runs
from bvit_analysis.tables.selection import as_runs as as_runs
from bvit_analysis.tables.selection import binary_runs as binary_runs
from bvit_analysis.tables.selection import close_ups as close_ups
from bvit_analysis.tables.selection import describe_runs as describe_runs
from bvit_analysis.tables.selection import in_order as in_order
from bvit_analysis.tables.selection import load_runs as load_runs
from bvit_analysis.tables.selection import recipe_of as recipe_of
from bvit_analysis.tables.spreadsheet import csv_text as csv_text
from bvit_analysis.tables.weights import flip_ranking as flip_ranking
from bvit_analysis.tables.weights import followed as followed
from bvit_analysis.tables.weights import ranked_counts as ranked_counts
